// Cards are made only for images that are scrolled to: thousands would be too many elements.
const CHUNK = 24;
const data = JSON.parse(document.getElementById("data").textContent);
const get = (id) => document.getElementById(id);
const create = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
// Numbers in names count as numbers: image 9 comes before image 10.
const byName = new Intl.Collator(undefined, { numeric: true }).compare;
const percent = (value) => value.toFixed(1);
const chosen = new Set();
let matching = [];
let numShown = 0;
let view = "all";

// PQ of the chosen classes where some are chosen, otherwise that of the image.
function quality(image) {
  if (!chosen.size) return image.pq;
  const values = image.classes.filter(([id, value]) => chosen.has(id) && value !== null);
  return values.length ? values.reduce((sum, [, value]) => sum + value, 0) / values.length : null;
}

function legend(image) {
  return image.classes.map(([id, value]) => {
    const [name, color] = data.classes[id];
    const swatch = create("i");
    swatch.style.background = color;
    const row = create("li", { className: chosen.has(id) ? "chosen" : "" }, swatch, name);
    if (value !== null) row.append(create("small", { textContent: percent(value), title: `PQ of ${name} in this image` }));
    return row;
  });
}

function showQuality(element, image) {
  element.hidden = !data.quality;
  element.classList.toggle("low", image.pq !== null && image.pq < 50);
  element.replaceChildren("PQ ", create("b", { textContent: image.pq === null ? "\u2013" : percent(image.pq) }));
  return element;
}

function card(image, position) {
  const pictures = create("div");
  data.panels.forEach((panel, index) => {
    if (view !== "all" && view !== index) return;
    const alt = `${panel.title}: ${image.name}`;
    const [width, height] = image.size;
    // The order of these counts: an image is lazy only if that is known before its address.
    const img = create("img", { loading: "lazy", decoding: "async", width, height, alt, src: image.src + panel.suffix });
    const button = create("button", { type: "button", className: "picture", onclick: () => open(position, index) }, img);
    pictures.append(create("figure", {}, button, create("figcaption", { textContent: panel.title })));
  });
  const header = create("header", {}, create("h2", { textContent: image.name, title: image.name }), showQuality(create("span", { className: "quality" }), image));
  return create("article", { className: "card" }, header, pictures, create("ul", { className: "legend" }, ...legend(image)));
}

const scrolled = new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) showMore();
}, { rootMargin: "1200px" });

function showMore() {
  const images = matching.slice(numShown, numShown + CHUNK);
  get("cards").append(...images.map((image, index) => card(image, numShown + index)));
  numShown += images.length;
  // Observed anew, as it may still be in sight.
  scrolled.disconnect();
  if (numShown < matching.length) scrolled.observe(get("more"));
}

function update() {
  const words = get("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  matching = data.images.filter((image) =>
    words.every((word) => image.name.toLowerCase().includes(word)) &&
    (!chosen.size || image.classes.some(([id]) => chosen.has(id))));
  const order = data.quality ? get("order").value : "name";
  // Images without a PQ come last in either direction.
  const keys = new Map(matching.map((image) => [image, quality(image) ?? Infinity]));
  const sign = (key) => (order === "best" && key !== Infinity ? -key : key);
  matching.sort((a, b) => {
    const difference = order === "name" ? 0 : sign(keys.get(a)) - sign(keys.get(b));
    return difference || byName(a.name, b.name);
  });
  get("count").textContent = matching.length === data.images.length
    ? `${data.images.length} images` : `${matching.length} of ${data.images.length} images`;
  const names = [...chosen].map((id) => data.classes[id][0]);
  get("classes-button").textContent = names.join(", ") || "All";
  get("classes-button").classList.toggle("chosen", names.length > 0);
  get("empty").hidden = matching.length > 0;
  const cards = get("cards");
  cards.classList.toggle("single", view !== "all");
  cards.dataset.panels = data.panels.length;
  cards.replaceChildren();
  numShown = 0;
  showMore();
}

// The enlarged picture.
const viewer = get("viewer");
let current = 0;
let panel = 0;

function open(position, index) {
  panel = index;
  show(position);
  viewer.showModal();
  get("viewer-screen").focus();
}

function show(position) {
  if (position < 0 || position >= matching.length) return;
  current = position;
  const image = matching[current];
  get("viewer-name").textContent = image.name;
  get("viewer-position").textContent = `${current + 1} / ${matching.length}`;
  showQuality(get("viewer-quality"), image);
  get("viewer-legend").replaceChildren(...legend(image));
  get("viewer-previous").disabled = current === 0;
  get("viewer-next").disabled = current === matching.length - 1;
  // All of them, one over the other: changing between them shows what differs.
  get("viewer-screen").replaceChildren(...data.panels.map(({ title, suffix }) =>
    create("img", { alt: `${title}: ${image.name}`, src: image.src + suffix })));
  const neighbour = matching[current + 1];
  if (neighbour) data.panels.forEach(({ suffix }) => { new Image().src = neighbour.src + suffix; });
  showPanel(panel);
}

function showPanel(index) {
  panel = (index + data.panels.length) % data.panels.length;
  [...get("viewer-screen").children].forEach((img, i) => img.classList.toggle("shown", i === panel));
  [...get("viewer-panels").children].forEach((tab, i) => tab.setAttribute("aria-pressed", i === panel));
}

viewer.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const number = Number(event.key);
  const actions = {
    ArrowLeft: () => show(current - 1),
    ArrowRight: () => show(current + 1),
    ArrowUp: () => showPanel(panel - 1),
    ArrowDown: () => showPanel(panel + 1),
    Home: () => show(0),
    End: () => show(matching.length - 1),
  };
  if (number >= 1 && number <= data.panels.length) showPanel(number - 1);
  else if (actions[event.key]) actions[event.key]();
  else return;
  event.preventDefault();
});
viewer.addEventListener("close", () => {
  // Where the viewer went, the page follows.
  while (numShown <= current && numShown < matching.length) showMore();
  const element = get("cards").children[current];
  element?.scrollIntoView({ block: "nearest" });
  element?.querySelector("button").focus({ preventScroll: true });
});
get("viewer-close").onclick = () => viewer.close();
get("viewer-previous").onclick = () => show(current - 1);
get("viewer-next").onclick = () => show(current + 1);
data.panels.forEach(({ title }, index) =>
  get("viewer-panels").append(create("button", { type: "button", textContent: title, onclick: () => showPanel(index) })));
get("viewer-screen").tabIndex = -1;
get("viewer-screen").onclick = () => showPanel(panel + 1);

// The controls.
const counts = data.classes.map(() => 0);
data.images.forEach((image) => image.classes.forEach(([id]) => { counts[id] += 1; }));
const boxes = data.classes.map(([name, color], id) => {
  const box = create("input", { type: "checkbox" });
  box.onchange = () => {
    if (box.checked) chosen.add(id);
    else chosen.delete(id);
    update();
  };
  const swatch = create("i", { className: "swatch" });
  swatch.style.background = color;
  get("choices").append(create("label", {}, box, swatch, create("span", { textContent: name }), create("small", { textContent: counts[id] })));
  return box;
});
function clearClasses() {
  chosen.clear();
  boxes.forEach((box) => { box.checked = false; });
  update();
}
const views = [["all", "Side by side"], ...data.panels.map(({ title }, index) => [index, title])];
for (const [value, title] of views) {
  const radio = create("input", { type: "radio", name: "view", defaultChecked: value === view });
  radio.onchange = () => { view = value; update(); };
  get("view").append(create("label", {}, radio, title));
}
// A list below its button, wherever the browser would put it.
function placeClasses() {
  const box = get("classes-button").getBoundingClientRect();
  const list = get("classes");
  const left = Math.min(box.left, document.documentElement.clientWidth - list.offsetWidth - 12);
  Object.assign(list.style, { position: "fixed", margin: 0, left: `${Math.max(12, left)}px`, top: `${box.bottom + 6}px` });
}
get("classes").addEventListener("toggle", placeClasses);
window.addEventListener("resize", placeClasses);
let typing;
get("search").oninput = () => { clearTimeout(typing); typing = setTimeout(update, 120); };
get("clear").onclick = clearClasses;
get("reset").onclick = () => { get("search").value = ""; clearClasses(); };
if (data.quality) get("order").onchange = update;
get("controls").onsubmit = (event) => event.preventDefault();
document.addEventListener("keydown", (event) => {
  const typingAlready = event.target.matches("input, select, textarea");
  if (event.key === "/" && !typingAlready && !viewer.open) {
    event.preventDefault();
    get("search").focus();
  }
});
// A page that was gone back to has the browser's memory of its fields.
get("controls").reset();
get("controls").hidden = false;
update();
