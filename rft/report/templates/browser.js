"use strict";
// The question browser: filters what stands in the data block and shows it, as text only, twenty questions at a time.
(() => {
  const STEP = 20;
  const SAID = { right: "✓ right", wrong: "✗ wrong", unparsed: "✗ no readable answer", refused: "✗ refused", unscored: "not scored" };
  const questions = JSON.parse(document.getElementById("questions").textContent);
  const root = document.getElementById("browser");
  const [list, count, more] = ["list", "count", "more"].map((name) => root.querySelector("." + name));
  const [search, kind] = [root.querySelector("input[type=search]"), root.querySelector("select")];
  const buttons = [...root.querySelectorAll("button[data-status]")];
  const texts = questions.map((q) => JSON.stringify(q).toLowerCase());
  let wanted = "all", shown = STEP;

  const element = (name, text, ...classes) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (classes.length) made.classList.add(...classes);
    return made;
  };

  const options = (all, gold, letters) => {
    const made = element("ol", undefined, "options");
    all.forEach((option, i) => {
      const letter = "abcdefghijklmnopqrstuvwxyz"[i], item = element("li", `(${letter}) ${option}`);
      if (letter === gold) item.classList.add("gold"), item.append(element("span", "gold", "mark", "right"));
      if (letters.includes(letter)) item.append(element("span", "answered", "mark", letter === gold ? "right" : "wrong"));
      made.append(item);
    });
    return made;
  };

  const answer = (given) => {
    const box = element("div", undefined, "side");
    const verdict = SAID[given.status] + (given.letter ? `: (${given.letter})` : "") + (given.cut ? ", cut off" : "");
    const title = element("h4", given.run ? given.run + ": " : "");
    title.append(element("span", verdict, given.status === "right" ? "right" : "wrong"));
    box.append(title);
    if (given.options) box.append(options(given.options, given.gold, given.letter ? [given.letter] : []));
    if (given.votes) box.append(element("p", "judges: " + (given.votes.map((v) => ({ true: "yes", false: "no" })[v] ?? "none").join(", ") || "not asked"), "facts"));
    if (given.read) {
      const details = element("details");
      details.append(element("summary", "What it read"), element("pre", given.read, "completion"));
      box.append(details);
    }
    box.append(element("pre", given.text.trim() ? given.text : "(an empty completion)", "completion"));
    return box;
  };

  const card = (q) => {
    const made = element("article", undefined, "card", "question");
    made.append(element("p", [q.kind, q.labels, `persona ${q.persona}`, q.id].filter(Boolean).join(" · "), "facts"), element("p", q.query, "query"));
    if (q.options.length) made.append(options(q.options, q.gold, q.answers.filter((a) => !a.options && a.letter).map((a) => a.letter)));
    if (q.facts.length) made.append(element("p", "In the data: " + q.facts.join("; "), "facts"));
    const details = element("details"), sides = element("div", undefined, "sides");
    const states = [...new Set(q.answers.map((a) => SAID[a.status]))].join(", ");
    details.append(element("summary", `${q.answers.length > 1 ? q.answers.length + " answers" : "Transcript"}: ${states}`), sides);
    details.addEventListener("toggle", () => { if (!sides.children.length) sides.append(...q.answers.map(answer)); });
    made.append(details);
    return made;
  };

  const fits = (q, i) =>
    (wanted === "all" || q.answers.some((a) => a.status === wanted)) &&
    (!kind.value || q.kind === kind.value) &&
    search.value.toLowerCase().split(/\s+/).every((word) => texts[i].includes(word));

  const show = () => {
    const found = questions.filter(fits);
    list.replaceChildren(...found.slice(0, shown).map(card));
    count.textContent = `${found.length} of ${questions.length} questions`;
    more.hidden = found.length <= shown;
    buttons.forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.status === wanted)));
  };

  [...new Set(questions.map((q) => q.kind))].sort().forEach((name) => {
    const option = element("option", name);
    option.value = name;
    kind.append(option);
  });
  buttons.forEach((button) => {
    const number = questions.filter((q) => q.answers.some((a) => a.status === button.dataset.status)).length;
    if (button.dataset.status !== "all") button.append(` ${number}`), (button.hidden = !number);
    button.addEventListener("click", () => { wanted = button.dataset.status; shown = STEP; show(); });
  });
  more.addEventListener("click", () => { shown += STEP; show(); });
  search.addEventListener("input", () => { shown = STEP; show(); });
  kind.addEventListener("change", () => { shown = STEP; show(); });
  root.hidden = false;
  show();
})();
