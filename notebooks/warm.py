"""Kernels that start with the heavy imports done: forks of one process that has imported them.

Importing torch and its kin takes four seconds, and each page has a kernel of its own.
"""

import multiprocessing
import os
import signal

from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from orphans import end_with_parent

IMPORTED = ["ipykernel.kernelapp", "matplotlib_inline.backend_inline", "mtl_lab.experiments", "mtl_lab.figures.plots"]


def kernel(arguments, folder, environment):
    """What a forked process does: become the kernel that Jupyter's own command would have started."""
    end_with_parent()
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment, JPY_PARENT_PID=str(os.getppid()))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance(argv=arguments)


class Fork:
    """A forked kernel with the methods of `subprocess.Popen` that Jupyter calls."""

    stdin = stdout = stderr = None

    def __init__(self, arguments, folder, environment):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        self.process = context.Process(target=kernel, args=(arguments, str(folder), environment))
        self.process.start()
        self.pid = self.process.pid

    def poll(self):
        return self.process.exitcode

    def wait(self):
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.process.kill()

    def terminate(self):
        self.process.terminate()


class WarmProvisioner(LocalProvisioner):
    async def launch_kernel(self, cmd, **kwargs):
        arguments = cmd[cmd.index("ipykernel_launcher") + 1 :]
        self.cwd = kwargs.get("cwd", os.getcwd())
        self.process = Fork(arguments, self.cwd, kwargs["env"])
        self.pid = self.process.pid
        return self.connection_info


class WarmKernelManager(AsyncKernelManager):
    async def _async_pre_start_kernel(self, **kwargs):
        self.provisioner = WarmProvisioner(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
        return await super()._async_pre_start_kernel(**kwargs)
