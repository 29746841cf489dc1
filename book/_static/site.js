// What scrolls inside itself can be reached by keyboard, and the sidebar is a landmark for screen readers.
(() => {
  const reach = () => {
    for (const box of document.querySelectorAll(".bd-article :is(figure, div.cell_output, div.math, pre, .pst-scrollable-table-container)")) {
      const scrolls = box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX === "auto";
      if (scrolls) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  addEventListener("load", () => {
    const bar = document.querySelector(".bd-sidebar-primary .sidebar-primary-items__start");
    bar?.setAttribute("role", "navigation");
    bar?.setAttribute("aria-label", "Book");
    reach();
    addEventListener("resize", reach);
  });
})();
