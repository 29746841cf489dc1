// Four questions that end in a method: a list in which each item asks, and each item of the list inside it is an answer that
// starts with its name in bold. Without scripts all answers are there. With them each question is a group of radio buttons,
// the next question appears once one is chosen, and a line says in short what the answers come to. An answer with a
// `.ends` asks no further.
(() => {
  const start = () => {
    for (const guide of document.querySelectorAll(".bd-article .guide")) ask(guide);
  };
  const ask = (guide) => {
    const questions = [...guide.querySelectorAll(":scope > ol > li")].map((item, q) => {
      const title = item.querySelector(":scope > p");
      const answers = [...item.querySelectorAll(":scope > ul > li")];
      const group = document.createElement("fieldset");
      const legend = document.createElement("legend");
      legend.textContent = `${q + 1}. ${title.textContent}`;
      group.append(legend);
      answers.forEach((answer, a) => {
        const name = answer.querySelector("strong"), label = document.createElement("label");
        const button = Object.assign(document.createElement("input"), { type: "radio", name: `guide-${q}`, value: a });
        label.append(button, name.textContent.replace(/\.$/, ""));
        group.append(label);
      });
      title.replaceWith(group);
      return { item, group, answers };
    });
    const short = document.createElement("p");
    short.className = "in-short";
    short.setAttribute("role", "status");
    guide.append(short);
    guide.classList.add("asks");
    const show = () => {
      const list = [];
      let open = true;
      for (const { item, group, answers } of questions) {
        const chosen = group.querySelector(":checked"), answer = chosen && open ? answers[chosen.value] : null;
        item.hidden = !open;
        for (const other of answers) other.hidden = other !== answer;
        const advice = answer?.querySelector(".do");
        if (advice) list.push(advice.textContent);
        open &&= answer !== null && !answer.querySelector(".ends");
      }
      short.hidden = !list.length;
      short.textContent = `In short: ${list.map((text, k) => (k ? text[0].toLowerCase() + text.slice(1) : text)).join("; ")}.`;
    };
    guide.addEventListener("change", show);
    show();
  };
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", start);
  else start();
})();
