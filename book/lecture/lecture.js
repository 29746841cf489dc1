// The lecture kit: colours that the reader's system prefers, films frame by frame, and the deck where reveal.js is
// there and the window is wide. `?plain` keeps the page that scrolls.
(() => {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  const still = matchMedia("(prefers-reduced-motion: reduce)"), BEAT = 140;
  const colours = () => { root.dataset.theme = dark.matches ? "dark" : "light"; };
  colours();
  dark.addEventListener("change", colours);

  const films = new Map();
  for (const film of document.querySelectorAll("figure.film")) {
    const frames = [...film.querySelectorAll(".frame")], last = frames.length - 1;
    const bar = document.createElement("div"), play = document.createElement("button"), step = document.createElement("input");
    let timer = 0;
    Object.assign(step, { type: "range", min: 0, max: last, value: last });
    step.setAttribute("aria-label", "Frame of the film");
    Object.assign(play, { type: "button", textContent: "Play" });
    const show = () => {
      film.classList.add("moves");
      frames.forEach((frame, n) => frame.classList.toggle("shown", n === Number(step.value)));
    };
    const halt = () => {
      clearInterval(timer);
      play.textContent = "Play";
      timer = 0;
    };
    const run = () => {
      halt();
      if (still.matches) return;
      step.value = 0;
      play.textContent = "Stop";
      show();
      timer = setInterval(() => {
        step.value = Number(step.value) + 1;
        show();
        if (Number(step.value) === last) halt();
      }, BEAT);
    };
    play.addEventListener("click", () => (timer ? halt() : run()));
    step.addEventListener("input", () => { halt(); show(); });
    bar.className = "film-bar";
    bar.append(play, step);
    film.append(bar);
    films.set(film, { run, halt });
  }

  if (!window.Reveal || !document.querySelector(".reveal")) return;
  const asked = new URLSearchParams(location.search); // the speaker's view asks as a receiver, in small frames
  if (asked.has("plain") || (innerWidth < 700 && !asked.has("receiver"))) return;
  root.classList.add("deck");
  document.getElementById("reveal-style").media = "all";
  const deck = { width: 1280, height: 720, margin: 0.02, hash: true, center: false, slideNumber: "c/t", transition: "none" };
  Reveal.initialize({ ...deck, scrollActivationWidth: 0, plugins: [window.RevealNotes].filter(Boolean) });
  const change = ({ currentSlide }) => {
    for (const [film, { run, halt }] of films) currentSlide.contains(film) ? run() : halt();
  };
  Reveal.on("ready", change);
  Reveal.on("slidechanged", change);
})();
