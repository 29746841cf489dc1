/* The ledger's filter: paper, outcome, scope and words, kept in the address (?paper=recon&outcome=undecided). A claim whose
   name is in the address (#claim) opens, and stays in sight whatever the filter says. Without scripts all claims are there. */
(() => {
  "use strict";
  const FIELDS = ["paper", "outcome", "scope", "find"];

  function open() {  // what the address names, on every page: a fold that holds it, or that it is
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let box = target?.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
    return target;
  }

  function start(form) {
    const claims = [...document.querySelectorAll("details.claim")].map((box) => (
      { box, ...box.dataset, text: `${box.id} ${box.textContent}`.toLowerCase() }));
    const said = form.querySelector("[role=status]");
    let pinned = null;

    function passes(claim, wanted) {
      const kind = wanted.scope === "training" ? claim.scope !== "arithmetic" : !wanted.scope || claim.scope === wanted.scope;
      return kind && ["paper", "outcome"].every((name) => !wanted[name] || claim[name] === wanted[name])
        && wanted.find.toLowerCase().split(/\s+/).every((word) => claim.text.includes(word));
    }

    function filter() {
      const wanted = Object.fromEntries(FIELDS.map((name) => [name, form.elements[name].value.trim()]));
      let shown = 0;
      for (const claim of claims) {
        const pass = passes(claim, wanted);
        claim.box.hidden = !pass && claim.box !== pinned;
        shown += pass;
      }
      for (const list of document.querySelectorAll(".claims-of")) {
        list.classList.toggle("none", !list.querySelector("details.claim:not([hidden])"));
      }
      said.textContent = shown === claims.length ? `${shown} claims` : `${shown} of ${claims.length} claims`;
      return wanted;
    }

    function keep(wanted) {  // in the address; a page opened from a disk may not be allowed to
      const query = new URLSearchParams(Object.entries(wanted).filter(([, value]) => value));
      try {
        history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}${location.hash}`);
      } catch { /* the filter works all the same */ }
    }

    function set(query) {
      for (const name of FIELDS) {
        const field = form.elements[name], value = query.get(name) ?? "";
        field.value = value;
        if (field.value !== value) field.value = "";  // a select that has no such choice
      }
    }

    function follow() {
      const target = open();
      pinned = target?.closest("details.claim") ?? null;
      filter();
      target?.scrollIntoView();
    }

    form.hidden = false;
    form.addEventListener("input", () => keep(filter()));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => keep(filter())));
    addEventListener("hashchange", follow);
    for (const label of document.querySelectorAll(".outcome-bar [data-query]")) {
      const link = document.createElement("a");
      link.href = `?${label.dataset.query}#filter`;
      link.append(...label.childNodes);
      link.addEventListener("click", (event) => {
        event.preventDefault();
        set(new URLSearchParams(label.dataset.query));
        keep(filter());
        form.scrollIntoView({ block: "start" });
      });
      label.replaceWith(link);
    }
    set(new URLSearchParams(location.search));
    follow();
  }

  function find() {
    const form = document.querySelector("form.claim-filter");
    if (form) return start(form);
    addEventListener("hashchange", open);
    if (location.hash) open();
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", find);
  else find();
})();
