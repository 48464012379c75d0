// Read-outs: the points nearest to the pointer, of every line of the chart, from the data that the page holds.
const data = JSON.parse(document.getElementById("charts").textContent);
const shown = (y) => (y === null ? "–" : String(Number(y.toPrecision(5))));
for (const [name, chart] of Object.entries(data)) {
  const svg = document.getElementById(name), cursor = svg.querySelector(".cursor");
  const reading = svg.closest("figure").querySelector(".reading");
  const through = chart.scale === "log" ? Math.log10 : (x) => x;
  const [left, top, right, bottom] = chart.area, [low, high] = chart.x.map(through);
  const column = (x) => left + ((through(x) - low) / (high - low)) * (right - left);
  const row = (y) => top + ((chart.y[1] - y) / (chart.y[1] - chart.y[0])) * (bottom - top);
  const nearest = (points, at) => points.reduce((a, b) => (Math.abs(column(b[0]) - at) < Math.abs(column(a[0]) - at) ? b : a));
  const clear = () => { cursor.replaceChildren(); reading.replaceChildren(); };
  svg.addEventListener("pointerleave", clear);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const found = chart.lines.map((line) => [line, nearest(line.points, at)]);
    const x = nearest(found.map(([, point]) => point), at)[0];
    const mark = document.createElementNS("http://www.w3.org/2000/svg", "path");
    mark.setAttribute("d", `M${column(x)},${top}V${bottom}`);
    cursor.replaceChildren(mark);
    reading.replaceChildren(`${chart.x_name} ${x.toLocaleString("en")}: `);
    for (const [line, [place, y]] of found) {
      const value = document.createElement("b");
      value.className = `c${line.colour}`;
      value.textContent = `${line.label} ${shown(y)}${place === x ? "" : ` (at ${place.toLocaleString("en")})`} `;
      reading.append(value);
      if (y === null) continue;
      const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
      for (const [key, number] of [["cx", column(place)], ["cy", row(y)], ["r", 3.5]]) dot.setAttribute(key, number);
      dot.setAttribute("class", `c${line.colour}`);
      cursor.append(dot);
    }
  });
}
