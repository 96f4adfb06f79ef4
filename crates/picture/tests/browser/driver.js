// Added to a copy of a page by the test: uses the page as a person would, and writes what it finds into the document,
// one `name=value` a line.
"use strict";
{
  const $ = (id) => document.getElementById(id);
  const found = [];
  const find = (name, value) => found.push(`${name}=${value}`);
  const faults = [];
  addEventListener("error", (event) => faults.push(event.message));
  document.addEventListener("securitypolicyviolation", (event) => faults.push(event.violatedDirective));

  // By way of a copy, which the browser keeps where reading is cheap.
  function pixels(canvas) {
    const { width, height } = canvas;
    const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    copy.drawImage(canvas, 0, 0);
    return copy.getImageData(0, 0, width, height).data;
  }
  // FNV-1a over all pixels: two different pictures have two different numbers.
  const picture = (canvas) => pixels(canvas).reduce((hash, byte) => Math.imul(hash ^ byte, 16777619) >>> 0, 2166136261);
  const colors = (canvas) => new Set(new Uint32Array(pixels(canvas).buffer)).size;
  const shown = () => `${$("caption").textContent}|${picture($("cells"))}`;
  const key = (key) => (document.activeElement ?? document.body).dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const press = (group, text) => [...$(group).children].find((button) => button.textContent === text).click();
  const pointer = (type, x, y) => {
    const box = $("marks").getBoundingClientRect();
    $("marks").dispatchEvent(new PointerEvent(type, { clientX: box.left + x, clientY: box.top + y, bubbles: true }));
  };

  find("first", shown());
  find("colors", colors($("cells")));
  find("thumbnails", new Set([...document.querySelectorAll("#heads canvas")].map(picture)).size);

  for (const [group, text] of [["heads", "head 2"], ["layers", "0"], ["kinds", "encoder self"], ["scales", "1"], ["kinds", "cross"], ["heads", "mean of heads"]]) {
    press(group, text);
    find(`press ${text}`, shown());
    find(`pressed ${text}`, [...$(group).children].filter((button) => button.ariaPressed === "true").map((button) => button.textContent));
  }
  for (const name of ["ArrowRight", "ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown", "ArrowDown", "1", "2", "3", "m", "s", "x"]) {
    key(name);
    find(`key ${name}`, shown());
  }

  // Over the whole map in small steps: every cell must be met.
  const before = picture($("marks"));
  const values = new Set();
  for (let y = 0; y < $("marks").offsetHeight; y += 9) {
    for (let x = 0; x < $("marks").offsetWidth; x += 9) {
      pointer("pointermove", x, y);
      if (!$("value").hidden) values.add($("value").textContent);
    }
  }
  find("hovered", values.size);
  find("hover", $("value").textContent);
  find("marks", picture($("marks")) !== before);
  find("detail", $("detail").textContent);
  pointer("pointerleave", 0, 0);
  find("left", $("value").hidden);

  $("marks").focus();
  key("ArrowRight");
  key("ArrowDown");
  find("cell", $("value").textContent);
  find("still", shown());
  key("Escape");
  find("escaped", $("value").hidden);

  location.hash = "#dec.0.self/1";
  dispatchEvent(new HashChangeEvent("hashchange"));
  find("address", shown());
  find("labels", [...document.querySelectorAll("button, canvas[tabindex], [role]")].filter((element) => !element.textContent && !element.ariaLabel && !element.getAttribute("aria-labelledby")).length);
  find("resources", performance.getEntriesByType("resource").length);
  find("faults", faults);

  const out = document.createElement("pre");
  out.id = "findings";
  out.textContent = found.join("\n");
  document.body.append(out);
}
