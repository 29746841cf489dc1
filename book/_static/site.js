// Small repairs on every page. What scrolls inside itself can be reached by keyboard and shows it; a formula keeps the full
// stop or comma behind it on its line; the sidebar is a landmark for screen readers; a site that is opened from a disk shows
// search results without excerpts, which it may not fetch.
(() => {
  const boxes = ".bd-article :is(figure, div.cell_output, div.math, pre, .pst-scrollable-table-container)";
  const reach = () => {
    for (const box of document.querySelectorAll(boxes)) {
      const scrolls = box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX === "auto";
      if (scrolls) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
      const more = () => box.classList.toggle("more", scrolls && box.scrollLeft + box.clientWidth < box.scrollWidth - 8);
      box.onscroll = more;
      more();
    }
  };
  const unbroken = () => {
    for (const math of document.querySelectorAll(".bd-article span.math")) {
      const after = math.nextSibling, mark = after?.nodeType === 3 && /^[.,;:?!)\]’”]+/.exec(after.data)?.[0];
      if (!mark) continue;
      const box = document.createElement("span");
      box.className = "unbroken";
      after.data = after.data.slice(mark.length);
      math.replaceWith(box);
      box.append(math, mark);
    }
  };
  if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS === "object") {
    DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
  }
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", unbroken);
  else unbroken();
  addEventListener("load", () => {
    const bar = document.querySelector(".bd-sidebar-primary .sidebar-primary-items__start");
    bar?.setAttribute("role", "navigation");
    bar?.setAttribute("aria-label", "Book");
    reach();
    addEventListener("resize", reach);
  });
})();
