// The end of each page: a form that builds the command to run the page with other values, and buttons that copy.
// What it builds is what notebooks/parameters.py reads and notebooks/page.py quotes; a test compares the two.
(() => {
  const bare = /^[-+]?(\d[\d_]*(\.\d*)?|\.\d+)(e[-+]?\d+)?$/i;
  const words = {True: ["bool", "True"], False: ["bool", "False"], None: ["none", "None"]};

  // Text as Python's literals: {type, text, items, value}. Throws where it is none.
  const literal = (text) => {
    let at = 0;
    const blank = () => { while (/\s/.test(text[at] ?? "")) at++; };
    const item = () => {
      blank();
      const start = at, first = text[at];
      if (first === "[" || first === "(") {
        const items = [], close = first === "[" ? "]" : ")";
        for (at++, blank(); text[at] !== close; blank()) {
          items.push(item());
          blank();
          if (text[at] === ",") at++;
          else if (text[at] !== close) throw new Error("a bracket is not closed");
        }
        at++;
        return {type: "list", items};
      }
      if (first === "'" || first === '"') {
        let value = "";
        for (at++; text[at] !== first; at++) {
          if (at >= text.length) throw new Error("a quote is not closed");
          if (text[at] === "\\") at++;
          value += text[at];
        }
        at++;
        return {type: "str", value};
      }
      while (at < text.length && !/[,\])]/.test(text[at])) at++;
      return word(text.slice(start, at).trim());
    };
    const found = item();
    blank();
    if (at < text.length) throw new Error("more than one value");
    return found;
  };
  const word = (text) => {
    if (words[text]) return {type: words[text][0], text: words[text][1]};
    if (bare.test(text)) return {type: /^[-+]?[\d_]+$/.test(text) ? "int" : "float", text};
    if (!text) throw new Error("a value is missing");
    return {type: "str", value: text};
  };

  const escaped = (letter) => {
    const code = letter.charCodeAt(0);
    return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
  };
  // As `as_text` of notebooks/parameters.py: no blank within a value.
  const written = (value) => {
    if (value.type === "list") return `[${value.items.map(written).join(",")}]`;
    if (value.type !== "str") return value.text;
    return `'${value.value.replace(/[\\']/g, "\\$&").replace(/\s/g, escaped)}'`;
  };

  const numbers = (value) => value.type === "list" ? value.items.flatMap(numbers)
    : ["int", "float"].includes(value.type) ? [Number(value.text.replaceAll("_", ""))] : [];
  const strings = (value) => value.type === "list" ? value.items.flatMap(strings) : value.type === "str" ? [value.value] : [];
  const shaped = (value, sizes) => sizes.length
    ? value.type === "list" && value.items.length === sizes[0] && value.items.every((one) => shaped(one, sizes.slice(1)))
    : ["int", "float"].includes(value.type);

  // The value of a text for a parameter; throws what it must be, in words.
  const checked = (text, kind, rules, standard) => {
    const list = kind.startsWith("list"), said = text.trim();
    let value;
    if (kind === "str") value = standard === "None" && said === "None" ? word(said) : {type: "str", value: said};
    else {
      try {
        value = literal(list && !/^[[(]/.test(said) ? `[${said}]` : said);
      } catch (error) {
        throw new Error(`must be ${kind}: ${error.message}`);
      }
    }
    const fits = value.type === kind.split("[")[0] || (kind === "float" && value.type === "int")
      || (standard === "None" && value.type === "none");
    if (!fits || (kind === "str" && !said)) throw new Error(`must be ${kind}`);
    if (list && !value.items.length && standard !== "[]") throw new Error("must be a list that is not empty");
    if (list && rules.shape && !shaped(value, rules.shape)) throw new Error(`must be ${rules.shape.join(" by ")} numbers`);
    if (list && rules["or more"]) {
      const [count, known] = rules["or more"], given = value.items.map((one) => one.value ?? Number(one.text));
      const wrong = given.length < count || given.some((one) => !known.includes(one));
      if (wrong) throw new Error(`must be ${count} or more of ${known.join(", ")}`);
    }
    const all = numbers(value);
    if (!all.every(Number.isFinite)) throw new Error("must be finite");
    for (const [stated, low, high, ends] of rules.ranges ?? []) {
      const within = (one) => (ends[0] === "[" ? one >= low : one > low)
        && (high === null || (ends[1] === "]" ? one <= high : one < high));
      if (!all.every(within)) throw new Error(`must be ${stated}`);
    }
    const one = rules["one of"];
    if (one && !strings(value).every((text) => one.includes(text))) throw new Error(`must be one of ${one.join(", ")}`);
    return value;
  };

  const top = (value, kind) => kind === "str" && value.type === "str" && /^[\w.-]+$/.test(value.value) && !words[value.value]
    ? value.value : written(value);
  // As Python's shlex.quote.
  const quoted = (text) => /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
  // The command for what was given: [{name, kind, text, default, rules}].
  const command = (page, given) => {
    const changed = [];
    for (const {name, kind, text, standard, rules} of given) {
      const [value, before] = [text, kind === "str" ? standard.replace(/^'(.*)'$/, "$1") : standard].map(
        (said, k) => top(k ? checked(said, kind, {}, standard) : checked(said, kind, rules, standard), kind));
      if (value !== before) changed.push(`${name}=${value}`);
    }
    return `make run PAGE=${quoted(page)}` + (changed.length ? ` P=${quoted(changed.join(" "))}` : "");
  };

  const form = (panel) => {
    const fields = [...panel.querySelectorAll("[data-kind]")];
    const shown = panel.querySelector("#rerun-command"), button = panel.querySelector("[data-copy]");
    const of = (field) => ({name: field.name, kind: field.dataset.kind, text: field.value,
      standard: field.dataset.default, rules: JSON.parse(field.dataset.rules)});
    const update = () => {
      let wrong = 0;
      for (const field of fields) {
        let said = "";
        try { command("", [of(field)]); } catch (error) { said = error.message; wrong++; }
        field.toggleAttribute("aria-invalid", Boolean(said));
        if (said) field.setAttribute("aria-invalid", "true");
        field.parentElement.querySelector(".wrong").textContent = said;
      }
      if (!wrong) shown.textContent = command(panel.dataset.page, fields.map(of));
      shown.classList.toggle("stale", wrong > 0);
      button.disabled = wrong > 0;
      panel.querySelector(".said").textContent = wrong ? "A value is not allowed; the command has the values before it." : "";
    };
    panel.querySelector(".values").hidden = false;
    panel.addEventListener("input", update);
    panel.addEventListener("submit", (event) => event.preventDefault());
    update();
  };

  const copy = async (button) => {
    const box = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(box.textContent);
      button.textContent = "Copied";
    } catch {  // a browser that does not let a page write there: the text is selected, for the reader's own keys
      getSelection().selectAllChildren(box);
      button.textContent = document.execCommand("copy") ? "Copied" : "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  };

  const start = () => {
    for (const panel of document.querySelectorAll("form.rerun-panel")) form(panel);
    for (const button of document.querySelectorAll("button[data-copy]")) {
      button.hidden = false;
      button.addEventListener("click", () => copy(button));
    }
  };
  globalThis.rerunPanel = {command};
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", start);
  else start();
})();
