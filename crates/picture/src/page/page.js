// Draws the page from the JSON in #data. The state is one object; `show` draws it whole, `mark` draws what follows the
// pointer, and events change the state and call one of the two. Nothing is fetched and nothing is global.
"use strict";
{
  const $ = (id) => document.getElementById(id);
  const make = (tag, text = "") => Object.assign(document.createElement(tag), { textContent: text });
  const data = JSON.parse($("data").textContent);
  const KINDS = [
    { id: "enc.self", text: "encoder self", rows: "source tokens (queries)", columns: "source tokens (keys)" },
    { id: "dec.self", text: "decoder self", rows: "target tokens (queries)", columns: "target tokens (keys)" },
    { id: "dec.cross", text: "cross", rows: "target tokens (queries)", columns: "source tokens (keys)" },
  ];
  const SCALES = ["1", "layer's maximum", "head's maximum"];
  const FONT = 12;
  const LONGEST = 12 * FONT; // of a label; its tooltip is whole
  const SLANT = Math.PI / 3; // column labels, as in the still pictures
  const READABLE = 17; // pixels: turned labels closer than this touch
  const PANEL = 272; // pixels: the panel's least width and its gap, as page.css has them

  for (const map of data.maps) {
    const [stack, layer, part] = map.name.split(".");
    map.kind = KINDS.findIndex((kind) => kind.id === `${stack}.${part}`);
    map.layer = layer;
    map.rowTokens = data.sequences[map.rows].map(visible);
    map.columnTokens = data.sequences[map.columns].map(visible);
  }
  const layersOf = (kind) => data.maps.filter((map) => map.kind === kind);
  const state = { map: data.maps.at(-1), head: data.maps.at(-1).heads, scale: 1, row: -1, column: -1 };
  let at = null; // where the map stands on its canvas, set by `drawMap`

  // A token that would be invisible gets a sign.
  function visible(token) {
    const shown = token.replace(/\n/g, "↵").replace(/\r/g, "␍").replace(/\t/g, "⇥");
    return shown.trim() === "" ? `“${shown}”` : shown;
  }

  // One plane of weights per head and the mean as the last one; at first use, for a page may hold many maps.
  function planes(map) {
    if (map.planes) return map.planes;
    const size = map.rowTokens.length * map.columnTokens.length;
    const bytes = Uint8Array.from(atob(map.weights), (char) => char.charCodeAt(0));
    map.planes = Array.from({ length: map.heads + 1 }, () => new Float32Array(size));
    for (let n = 0; n < size * map.heads; n++) {
      const code = bytes[2 * n] | (bytes[2 * n + 1] << 8);
      const weight = code > data.levels ? NaN : code / data.levels;
      map.planes[Math.floor(n / size)][n % size] = weight;
      map.planes[map.heads][n % size] += weight / map.heads;
      if (code > data.levels) map.hasNaN = true;
    }
    map.largest = map.planes.map((plane) => plane.reduce((most, weight) => (weight > most ? weight : most), 0));
    return map.planes;
  }

  const headName = (map, head) => (head === map.heads ? "mean of heads" : `head ${head}`);
  const number = (weight) => (Number.isNaN(weight) ? "NaN" : weight.toFixed(4));

  // The weight that has the last colour.
  function scaleEnd(map, head) {
    planes(map);
    return [1, Math.max(...map.largest), map.largest[head]][state.scale] || 1;
  }

  // The ramp as pixels, and the colour of NaN after it.
  const bytesOf = (hex) => [...[1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16)), 255];
  const PIXELS = new Uint32Array(Uint8Array.from([...data.ramp, data.notANumber].flatMap(bytesOf)).buffer);
  const LAST = data.ramp.length - 1;
  const pixel = (share) => PIXELS[Number.isNaN(share) ? LAST + 1 : Math.round(Math.min(share, 1) * LAST)];

  // A cell is a pixel; whoever shows the canvas enlarges it.
  function paint(canvas, map, head) {
    [canvas.width, canvas.height] = [map.columnTokens.length, map.rowTokens.length];
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    const end = scaleEnd(map, head);
    const pixels = new Uint32Array(image.data.buffer);
    planes(map)[head].forEach((weight, cell) => { pixels[cell] = pixel(weight / end); });
    context.putImageData(image, 0, 0);
    return canvas;
  }

  // Keeps the buttons that are there, so that focus survives.
  function choose(group, texts, pressed, pick) {
    while (group.children.length > texts.length) group.lastChild.remove();
    texts.forEach((text, n) => {
      const button = group.children[n] ?? group.appendChild(Object.assign(make("button"), { type: "button" }));
      if (button.textContent !== text) button.textContent = text;
      button.setAttribute("aria-pressed", n === pressed);
      button.onclick = () => pick(n);
    });
    return [...group.children];
  }

  function show() {
    const { map, head } = state;
    const layers = layersOf(map.kind);
    const kinds = choose($("kinds"), KINDS.map((kind) => kind.text), map.kind, pickKind);
    kinds.forEach((button, kind) => (button.disabled = layersOf(kind).length === 0));
    choose($("layers"), layers.map((each) => each.layer), layers.indexOf(map), (n) => pickMap(layers[n]));
    choose($("scales"), SCALES, state.scale, pickScale);
    const heads = planes(map).map((_, n) => headName(map, n));
    choose($("heads"), heads, head, pickHead).forEach((button, n) => {
      button.prepend(paint(button.querySelector("canvas") ?? make("canvas"), map, n));
    });
    $("caption").replaceChildren(make("b", map.name), make("span", headName(map, head)));
    drawLegend();
    drawMap();
    mark();
    // Where a page has no address of its own (inside another one), its state is not part of it.
    try { history.replaceState(null, "", `#${map.name}/${head === map.heads ? "mean" : head}`); } catch { return; }
  }

  function drawLegend() {
    const { map, head } = state;
    const end = scaleEnd(map, head);
    const bar = make("canvas");
    [bar.width, bar.height] = [data.ramp.length, 1];
    const context = bar.getContext("2d");
    data.ramp.forEach((color, x) => { context.fillStyle = color; context.fillRect(x, 0, 1, 1); });
    const ticks = make("div");
    ticks.append(...[0, 0.5, 1].map((share) => make("span", +(share * end).toFixed(3))));
    $("legend").replaceChildren(bar, ticks);
    if (map.hasNaN) {
      const [field, sign] = [make("p"), make("i")];
      sign.style.background = data.notANumber;
      field.append(sign, "NaN: not a number");
      $("legend").append(field);
    }
    $("legend").setAttribute("aria-label", `Colours from 0, dark, to ${+end.toFixed(3)}, light`);
  }

  const css = (name) => getComputedStyle(document.body).getPropertyValue(name);

  // A drawing surface in CSS pixels, sharp on dense screens as far as a canvas may be large.
  function surface(canvas) {
    const density = Math.min(devicePixelRatio, 8192 / Math.max(at.width, at.height));
    [canvas.width, canvas.height] = [at.width * density, at.height * density];
    [canvas.style.width, canvas.style.height] = [`${at.width}px`, `${at.height}px`];
    const context = canvas.getContext("2d");
    context.scale(density, density);
    context.imageSmoothingEnabled = false;
    context.textBaseline = "middle";
    return context;
  }

  function font(context) {
    context.font = `${FONT}px ${getComputedStyle(document.body).fontFamily}`;
    return (text) => context.measureText(text).width;
  }

  function cut(text, width) {
    if (width(text) <= LONGEST) return text;
    const chars = [...text];
    while (chars.length > 1 && width(chars.join("") + "…") > LONGEST) chars.pop();
    return chars.join("") + "…";
  }

  // Every label has its room: the canvas grows with the longest one, and cells shrink only until labels would touch.
  function layout(map) {
    const width = font($("cells").getContext("2d"));
    const [rows, columns] = [map.rowTokens, map.columnTokens].map((tokens) => tokens.map((text) => cut(text, width)));
    const longest = Math.max(rows.length, columns.length);
    const left = Math.ceil(24 + Math.max(...rows.map(width)) + 8);
    const top = Math.ceil(24 + Math.max(...columns.map(width)) * Math.sin(SLANT) + FONT);
    // The panel stands beside the map where page.css gives it a column.
    const panel = matchMedia("(min-width: 861px)").matches ? PANEL : 0;
    const room = Math.floor((document.querySelector("main").clientWidth - panel - left - 40) / columns.length);
    const least = longest > 128 ? Math.max(3, Math.floor(2304 / longest)) : READABLE;
    const cell = Math.max(least, Math.min(room, Math.floor(640 / rows.length), 40));
    const reach = columns.map((text, n) => left + (n + 0.5) * cell + width(text) * Math.cos(SLANT) + FONT);
    const step = [1, 2, 5, 10, 20].find((each) => each * cell >= READABLE) ?? 50;
    const size = { width: Math.ceil(Math.max(...reach, left + columns.length * cell + 2)), height: top + rows.length * cell + 2 };
    return { rows, columns, left, top, cell, step, ...size };
  }

  // A label of a row or a column; on a plate where it is to stand out.
  function label(context, token, isRow, plate = false) {
    const { left, top, cell, rows, columns } = at;
    const text = (isRow ? rows : columns)[token];
    context.save();
    context.translate(...(isRow ? [left - 8, top + (token + 0.5) * cell] : [left + (token + 0.5) * cell, top - 8]));
    if (!isRow) context.rotate(-SLANT);
    const start = isRow ? -context.measureText(text).width : 0;
    if (plate) {
      context.fillStyle = css("--accent");
      context.beginPath();
      context.roundRect(start - 5, -FONT * 0.7, context.measureText(text).width + 10, FONT * 1.4, 4);
      context.fill();
      context.fillStyle = css("--on-accent");
    }
    context.fillText(text, start, 0);
    context.restore();
  }

  function drawMap() {
    const { map, head } = state;
    at = layout(map);
    const { left, top, cell, rows, columns, step } = at;
    const context = surface($("cells"));
    const [wide, high] = [columns.length * cell, rows.length * cell];
    context.drawImage(paint(make("canvas"), map, head), left, top, wide, high);
    if (cell >= 12) {
      context.fillStyle = css("--paper");
      for (let n = 1; n < columns.length; n++) context.fillRect(left + n * cell - 1, top, 1, high);
      for (let n = 1; n < rows.length; n++) context.fillRect(left, top + n * cell - 1, wide, 1);
    }
    context.strokeStyle = "#a04040";
    planes(map)[head].forEach((weight, n) => {
      if (!Number.isNaN(weight)) return;
      const [x, y, d] = [left + ((n % columns.length) + 0.5) * cell, top + (Math.floor(n / columns.length) + 0.5) * cell, cell / 4];
      context.stroke(new Path2D(`M${x - d} ${y - d}L${x + d} ${y + d}M${x + d} ${y - d}L${x - d} ${y + d}`));
    });
    font(context);
    context.fillStyle = css("--ink");
    for (let n = 0; n < rows.length; n += step) label(context, n, true);
    for (let n = 0; n < columns.length; n += step) label(context, n, false);
    context.fillStyle = css("--soft");
    context.fillText(`${KINDS[map.kind].columns} →`, left, 8);
    context.translate(8, top);
    context.rotate(-Math.PI / 2);
    context.textAlign = "right";
    context.fillText(`← ${KINDS[map.kind].rows}`, 0, 0);
  }

  // Row, column and value of the marked cell.
  function mark() {
    const { map, head, row, column } = state;
    const { left, top, cell, rows, columns } = at;
    const context = surface($("marks"));
    $("value").hidden = row < 0;
    if (row < 0) return $("detail").replaceChildren(make("p", "Point at a cell to see its weight, where its row looks and who looks at its column."));
    const [x, y] = [left + column * cell, top + row * cell];
    context.lineWidth = 2;
    context.strokeStyle = css("--mark");
    context.strokeRect(left - 1, y - 1, columns.length * cell + 1, cell + 1);
    context.strokeRect(x - 1, top - 1, cell + 1, rows.length * cell + 1);
    context.strokeStyle = "#ffffff";
    context.strokeRect(x, y, cell - 1, cell - 1);
    font(context);
    label(context, row, true, true);
    label(context, column, false, true);
    const plane = planes(map)[head];
    const weight = plane[row * columns.length + column];
    $("value").replaceChildren(make("bdi", map.rowTokens[row]), " → ", make("bdi", map.columnTokens[column]), make("b", number(weight)));
    const beside = x + cell + 8 + $("value").offsetWidth;
    const across = beside < at.width ? x + cell + 8 : Math.max(0, x - 8 - $("value").offsetWidth);
    $("value").style.transform = `translate(${across}px, ${y + cell + 6 > at.height - 28 ? y - 34 : y + cell + 6}px)`;
    const line = map.columnTokens.map((token, n) => ({ token, weight: plane[row * columns.length + n] }));
    const post = map.rowTokens.map((token, n) => ({ token, weight: plane[n * columns.length + column] }));
    $("detail").replaceChildren(
      ...ranking([make("bdi", map.rowTokens[row]), " looks at"], line),
      ...ranking(["who looks at ", make("bdi", map.columnTokens[column])], post),
    );
  }

  function ranking(title, tokens) {
    const [section, heading, table] = [make("div"), make("h2"), make("table")];
    heading.append(...title);
    table.className = "weights";
    // NaN first: whoever looks must not miss it.
    const order = (weight) => (Number.isNaN(weight) ? 2 : weight);
    for (const { token, weight } of tokens.sort((a, b) => order(b.weight) - order(a.weight)).slice(0, 6)) {
      const [line, bar] = [table.insertRow(), make("i")];
      bar.style.width = `${100 * (weight || 0)}%`;
      line.insertCell().append(make("bdi", token));
      line.insertCell().append(bar);
      line.insertCell().append(number(weight));
    }
    section.append(heading, table);
    return [section];
  }

  // Changes of the state. What the new map does not have falls back to the mean of its heads, and to no marked cell.
  function pickMap(map) {
    const keepsHead = state.head < Math.min(state.map.heads, map.heads);
    const keepsCell = state.row < map.rowTokens.length && state.column < map.columnTokens.length && map.kind === state.map.kind;
    Object.assign(state, { map, head: keepsHead ? state.head : map.heads }, keepsCell ? {} : { row: -1, column: -1 });
    show();
  }
  function pickKind(kind) {
    const layers = layersOf(kind);
    if (layers.length > 0) pickMap(layers.find((map) => map.layer === state.map.layer) ?? layers.at(-1));
  }
  function pickHead(head) { state.head = head; show(); }
  function pickScale(scale) { state.scale = scale; show(); }
  function pickCell(row, column) { Object.assign(state, { row, column }); mark(); }
  const step = (list, from, by) => list[(list.indexOf(from) + by + list.length) % list.length];
  const stepHead = (by) => pickHead((state.head + by + state.map.heads + 1) % (state.map.heads + 1));
  const stepLayer = (by) => pickMap(step(layersOf(state.map.kind), state.map, by));

  function followAddress() {
    const [name, head] = location.hash.slice(1).split("/");
    const map = data.maps.find((each) => each.name === name);
    if (map) state.head = /^\d+$/.test(head) && +head < map.heads ? +head : map.heads;
    if (map) Object.assign(state, { map, row: -1, column: -1 });
    show();
  }

  const KEYS = {
    ArrowLeft: () => stepHead(-1), ArrowRight: () => stepHead(1),
    ArrowUp: () => stepLayer(1), ArrowDown: () => stepLayer(-1),
    1: () => pickKind(0), 2: () => pickKind(1), 3: () => pickKind(2),
    m: () => pickHead(state.map.heads), s: () => pickScale((state.scale + 1) % SCALES.length),
  };
  const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const move = document.activeElement === $("marks") && MOVES[event.key];
    if (move) {
      const clamp = (place, count) => Math.max(0, Math.min(place, count - 1));
      pickCell(clamp(state.row + move[0], at.rows.length), clamp(state.column + move[1], at.columns.length));
      $("value").scrollIntoView({ block: "nearest", inline: "nearest" });
    } else if (event.key === "Escape") $("marks").blur();
    else if (Object.hasOwn(KEYS, event.key)) KEYS[event.key]();
    else return;
    event.preventDefault();
  });
  for (const name of ["pointermove", "pointerdown"]) $("marks").addEventListener(name, (event) => {
    const [row, column] = [Math.floor((event.offsetY - at.top) / at.cell), Math.floor((event.offsetX - at.left) / at.cell)];
    const inside = row >= 0 && row < at.rows.length && column >= 0 && column < at.columns.length;
    if (inside && (row !== state.row || column !== state.column)) pickCell(row, column);
  });
  $("marks").addEventListener("pointerleave", () => document.activeElement === $("marks") || pickCell(-1, -1));
  $("marks").addEventListener("focus", () => state.row < 0 && $("marks").matches(":focus-visible") && pickCell(0, 0));
  $("marks").addEventListener("blur", () => pickCell(-1, -1));
  addEventListener("resize", show);
  addEventListener("hashchange", followAddress);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  followAddress();
}
