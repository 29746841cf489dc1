# Used through IPYTHONDIR by the runner, by nbval and by `make lab`: one set of settings, no personal profile.
c = get_config()  # noqa: F821
c.IPKernelApp.log_level = 50  # hides the "TCP without encryption" line of each start, and noise when it is interrupted
c.HistoryManager.enabled = False  # it would write a database beside this file
c.InlineBackend.figure_formats = {"svg"}
c.InlineBackend.rc = {
    "figure.dpi": 110,
    "svg.hashsalt": "conflicting gradients",
}  # the same run gives the same bytes
