// Filters the samples and marks the section that is being read. The page is whole without it.
"use strict";
for (const box of document.querySelectorAll(".samples")) {
  const form = box.querySelector("form"), holder = box.querySelector(".cards"), more = box.querySelector(".more");
  const count = box.querySelector(".count"), total = count.dataset.total, step = 12;
  const plain = (text) => text.toLowerCase().replace(/\s+/g, " ").trim();
  const said = (card) => [...card.querySelectorAll(".asked p, .answer p")].map((p) => plain(p.textContent)).join("\n");
  const cards = [...holder.children].map((card, place) => ({ card, place, text: said(card) }));
  let shown = step;

  const show = () => {
    const wanted = plain(form.elements.text.value);
    const kind = form.elements.kind.value, mark = form.elements.mark.value, order = form.elements.order.value;
    const found = cards.filter(({ card, text }) =>
      (!kind || card.dataset.kind === kind) && (!mark || card.dataset.marks.split(" ").includes(mark)) &&
      text.includes(wanted));
    const sign = order === "loss" ? 1 : -1;
    found.sort((a, b) => (order ? sign * (a.card.dataset.gain - b.card.dataset.gain) : 0) || a.place - b.place);
    const visible = new Set(found.slice(0, shown).map(({ card }) => card));
    for (const { card } of cards) {
      card.classList.remove("folded");
      card.classList.toggle("out", !visible.has(card));
    }
    holder.append(...found.map(({ card }) => card));
    more.hidden = found.length <= shown;
    count.textContent = found.length === cards.length ? total : `${found.length} of ${cards.length} prompts`;
  };
  const policies = () => {
    const off = new Set([...form.querySelectorAll("input[type=checkbox]:not(:checked)")].map((input) => input.value));
    for (const answer of box.querySelectorAll(".answer")) answer.classList.toggle("out", off.has(answer.dataset.policy));
  };
  form.addEventListener("input", (event) => {
    if (event.target.type === "checkbox") return policies();
    shown = step;
    show();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => { shown += 2 * step; show(); });
  form.hidden = false;
  form.reset();
  show();
}

// a link to a recipe opens it
const open = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
};
addEventListener("hashchange", open);
open();

const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    for (const [key, link] of links) link.classList.toggle("here", key === target.id);
  }
}, { rootMargin: "-15% 0px -75% 0px" });
for (const section of document.querySelectorAll("main > section")) watcher.observe(section);
