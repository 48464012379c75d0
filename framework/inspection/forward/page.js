// Draws what the page's tables do not hold: patterns of the heads, their queries, keys and values, norms of the residual stream.
const numbers = JSON.parse(document.getElementById("numbers").textContent);
const tokens = numbers.tokens, tip = document.body.appendChild(document.createElement("div")), pictures = [];
tip.id = "tip";
const shown = (token) => JSON.stringify(token.text);
const place = (position) => `${position} ${shown(tokens[position])}`;

function colour(name) {
  const probe = document.createElement("canvas").getContext("2d");
  probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((start) => parseInt(probe.fillStyle.slice(start, start + 2), 16));
}

// a canvas of one pixel a cell; strength(value) is -1 to 1, about(row, column) the words at a cell
function picture(canvas, rows, columns, strength, about) {
  canvas.width = columns; canvas.height = rows.length;
  const draw = () => {
    const context = canvas.getContext("2d"), image = context.createImageData(columns, rows.length), up = colour("--accent"), down = colour("--special");
    rows.forEach((row, y) => row.forEach((value, x) => {
      const s = strength(value), at = 4 * (y * columns + x);
      image.data.set([...(s < 0 ? down : up), Math.min(255, Math.round(255 * Math.abs(s)))], at);
    }));
    context.putImageData(image, 0, 0);
  };
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    const x = Math.floor((event.clientX - box.left) / box.width * columns), y = Math.floor((event.clientY - box.top) / box.height * rows.length);
    tip.textContent = rows[y] && x >= 0 && x < columns ? about(y, x) : "";
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${event.clientY + 30 + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 8 : event.clientY + 16}px`;
  };
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("pointerleave", () => { tip.textContent = ""; });
  pictures.push(draw);
  draw();
}

function element(parent, name, text = "") {
  const made = parent.appendChild(document.createElement(name));
  made.textContent = text;
  return made;
}

function patternTable(head) {
  const box = document.createElement("div"), table = element(box, "table"), top = element(element(table, "thead"), "tr"), body = element(table, "tbody");
  box.className = "scroll";
  table.className = "pattern";
  element(top, "th");
  tokens.forEach((token) => element(top, "th", token.position));
  head.forEach((row, query) => {
    const line = element(body, "tr");
    element(line, "th", `${tokens[query].text.replace(/\n/g, "⏎")} ${query}`);
    tokens.forEach((_, key) => {
      const cell = element(line, "td");
      if (key > query) { cell.className = "later"; return; }
      cell.style.setProperty("--p", row[key]);
      cell.title = `${place(query)} takes ${row[key]} from ${place(key)}`;
    });
  });
  return box;
}

function showHead(panel, layer, head) {
  panel.replaceChildren();
  const heads = layer.matrices.query.length, shared = heads / layer.matrices.key.length;
  element(panel, "h3", `layer ${layer.layer}, head ${head}: each token (row) reads from those before it (columns)`);
  panel.append(patternTable(layer.patterns[head]));
  const vectors = element(panel, "div");
  vectors.className = "vectors";
  for (const [kind, letter] of [["query", "Q"], ["key", "K"], ["value", "V"]]) {
    const number = kind === "query" ? head : Math.floor(head / shared), matrix = layer.matrices[kind][number], figure = element(vectors, "figure");
    if (layer.vectors) {
      const rows = layer.vectors[kind][number], most = Math.max(...rows.flat().map(Math.abs)) || 1, canvas = element(figure, "canvas");
      canvas.style.height = `${Math.max(3, Math.min(14, 240 / rows.length)) * rows.length}px`;
      picture(canvas, rows, rows[0].length, (value) => value / most, (y, x) => `${kind} of ${place(y)}, number ${x}: ${rows[y][x]}`);
    }
    const caption = element(figure, "figcaption", `${kind}, norms ${Math.min(...layer.norms[kind][number])} to ${Math.max(...layer.norms[kind][number])}: W_${letter} = `);
    element(caption, "code", `${matrix.name} rows ${matrix.rows[0]}:${matrix.rows[1]}`);
    caption.append(` (${matrix.rows[1] - matrix.rows[0]} × ${matrix.num_inputs})`);
    if (kind !== "query" && shared > 1) caption.append(`, shared by ${shared} heads`);
    if (!layer.vectors) caption.append("; the numbers are left out of this page (--layers)");
  }
}

function openLayer(details) {
  const layer = numbers.layers[details.dataset.layer], gallery = details.querySelector(".heads"), panel = details.querySelector(".head");
  if (!layer.patterns || gallery.childElementCount) return;
  const buttons = layer.patterns.map((head, number) => {
    const button = element(gallery, "button");
    const canvas = element(button, "canvas");
    picture(canvas, head.map((row) => [...row, ...Array(tokens.length - row.length).fill(0)]), tokens.length, (value) => value,
      (y, x) => x > y ? "" : `${place(y)} takes ${head[y][x]} from ${place(x)}`);
    button.append(`head ${number}`);
    button.addEventListener("click", () => {
      buttons.forEach((other) => other.setAttribute("aria-pressed", other === button));
      showHead(panel, layer, number);
    });
    return button;
  });
  buttons[0].click();
}

document.querySelectorAll("details[data-layer]").forEach((details) => {
  details.addEventListener("toggle", () => { if (details.open) openLayer(details); });
  if (details.open) openLayer(details);
});
const stream = document.getElementById("residual");
if (stream) {
  const values = numbers.residual.flat().map(Math.log), least = Math.min(...values), most = Math.max(...values);
  stream.style.height = `${Math.max(120, Math.min(360, 14 * numbers.residual.length))}px`;
  picture(stream, numbers.residual, tokens.length, (value) => 0.06 + 0.94 * (Math.log(value) - least) / (most - least || 1),
    (y, x) => `${y ? `after layer ${y - 1}` : "embedding"}, ${place(x)}: norm ${numbers.residual[y][x]}`);
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => pictures.forEach((draw) => draw()));
