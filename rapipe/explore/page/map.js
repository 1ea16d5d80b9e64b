/* Map: where each image stands; hover, zoom, lasso. */
"use strict";

{
  const SHOWN = 200;
  const GREY = [140, 148, 160, 90];
  const OUTCOMES = ["right", "right against its neighbours", "wrong", "retrieval failed", "fusion failed"];
  const OF_OUTCOMES = [[40, 150, 90, 215], [120, 200, 120, 215], [205, 60, 50, 215], [205, 60, 50, 215], [235, 150, 30, 215]];
  let scatter = null;
  let facts = null;
  let codes = null;
  let outcomes = null;
  let line = [];
  let lassoing = false;

  /* Colours that differ, however many there are. */
  const colour = (code, count) => {
    const hue = count <= 12 ? (360 * code) / count : (code * 137.508) % 360;
    const light = count <= 12 ? 0.52 : 0.42 + 0.1 * (code % 3);
    const a = 0.72 * Math.min(light, 1 - light);
    const channel = (n) => {
      const k = (n + hue / 30) % 12;
      return Math.round(255 * (light - a * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
    };
    return [channel(0), channel(8), channel(4), 215];
  };

  const unpack = ([about, buffer]) => {
    const n = about.count;
    facts = about;
    codes = {
      ids: new BigInt64Array(buffer, 0, n),
      class: new Int16Array(buffer, 16 * n, n),
      source: new Int16Array(buffer, 18 * n, n),
      split: new Int16Array(buffer, 20 * n, n),
    };
    return new Float32Array(buffer, 8 * n, 2 * n);
  };

  const names = {
    class: () => (R.about.memory ? R.about.memory.classes.map((c) => c.name) : R.about.classes),
    source: () => facts.sources,
    split: () => facts.splits,
    outcome: () => OUTCOMES,
  };

  const codeOf = async (by) => {
    if (by !== "outcome") return (i) => codes[by][i];
    const listed = await R.attempt(() => R.source.mistakes(R.state.classifier));
    if (!listed) return () => -1;
    const byId = new Map(listed.rows.map((row) => [row.id, OUTCOMES.indexOf(row.outcome)]));
    outcomes = new Int16Array(facts.count).fill(-1);
    for (let i = 0; i < facts.count; i++) {
      const code = facts.splits[codes.split[i]] === "test" ? byId.get(String(codes.ids[i])) : undefined;
      if (code !== undefined) outcomes[i] = code;
    }
    return (i) => outcomes[i];
  };

  const paint = async () => {
    const by = R.$("colour").value;
    const code = await codeOf(by);
    const labels = names[by]();
    const palette = by === "outcome" ? OF_OUTCOMES : labels.map((_, c) => colour(c, labels.length));
    const used = new Set();
    scatter.paint((i) => {
      const c = code(i);
      used.add(c);
      return palette[c] || GREY;
    });
    R.$("legend").replaceChildren(...labels.flatMap((name, c) => {
      if (!used.has(c)) return [];
      const dot = R.make("i");
      dot.style.background = `rgb(${palette[c].slice(0, 3)})`;
      return [R.make("span", {}, dot, name)];
    }));
    if ([...used].some((c) => !palette[c])) {
      const dot = R.make("i");
      dot.style.background = `rgb(${GREY.slice(0, 3)})`;
      R.$("legend").append(R.make("span", {}, dot, by === "outcome" ? "others" : "none"));
    }
  };

  const describe = (i) => {
    const name = names.class()[codes.class[i]] || "no class";
    return `${name}, ${facts.splits[codes.split[i]]}, ${facts.sources[codes.source[i]]}`;
  };

  const hover = (event) => {
    const box = R.$("points").getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const i = scatter.nearest(x, y);
    const figure = R.$("hovered");
    figure.hidden = i < 0;
    if (i < 0) return;
    figure.querySelector("img").src = R.source.picture(codes.ids[i]);
    figure.querySelector("figcaption").textContent = describe(i);
    figure.style.left = `${Math.min(x + 12, box.width - 112)}px`;
    figure.style.top = `${Math.min(y + 12, box.height - 150)}px`;
  };

  const drawLine = () => {
    const canvas = R.$("overlay");
    canvas.width = canvas.clientWidth;
    canvas.height = canvas.clientHeight;
    const pen = canvas.getContext("2d");
    if (line.length < 2) return;
    pen.strokeStyle = getComputedStyle(document.body).color;
    pen.lineWidth = 2;
    pen.setLineDash([6, 4]);
    pen.beginPath();
    line.forEach(([x, y]) => pen.lineTo(x, y));
    pen.closePath();
    pen.stroke();
  };

  const select = (rows) => {
    const stored = rows.filter((i) => facts.splits[codes.split[i]] === "train");
    R.$("selection").hidden = false;
    R.$("selection-title").textContent =
      `${rows.length.toLocaleString("en")} images, ${stored.length.toLocaleString("en")} of the memory` +
      (rows.length > SHOWN ? `; ${SHOWN} are shown` : "");
    R.$("command").value = stored.length
      ? `rapipe store remove ${stored.map((i) => `--id ${codes.ids[i]}`).join(" ")}`
      : "";
    R.$("selected").replaceChildren(...rows.slice(0, SHOWN).map((i) => {
      const id = String(codes.ids[i]);
      const button = R.make("button", { type: "button", title: `${describe(i)}, id ${id}` }, R.picture(id, describe(i)));
      button.addEventListener("click", () => R.ask(id));
      return button;
    }));
  };

  const zoom = (factor, at) => {
    const before = at && scatter.toMap(...at);
    scatter.zoom = Math.max(0.5, Math.min(2000, scatter.zoom * factor));
    if (at) {
      const after = scatter.toMap(...at);
      scatter.centre = scatter.centre.map((c, axis) => c + before[axis] - after[axis]);
    }
    scatter.move();
  };

  const pan = (dx, dy) => {
    const s = scatter.scale();
    scatter.centre = [scatter.centre[0] - dx / s, scatter.centre[1] + dy / s];
    scatter.move();
  };

  const lasso = (on) => {
    lassoing = on;
    R.$("lasso").setAttribute("aria-pressed", String(on));
  };

  const listen = () => {
    const canvas = R.$("points");
    let last = null;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      last = place(event);
      R.$("hovered").hidden = true;
      line = lassoing || event.shiftKey ? [last] : [];
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!last) {
        hover(event);
        return;
      }
      const [x, y] = place(event);
      if (line.length) {
        line.push([x, y]);
        drawLine();
      } else pan(x - last[0], y - last[1]);
      last = [x, y];
    });
    canvas.addEventListener("pointerup", () => {
      if (line.length > 2) {
        select(scatter.inside(line));
        lasso(false);
      }
      last = null;
    });
    canvas.addEventListener("pointerleave", () => {
      R.$("hovered").hidden = true;
    });
    canvas.addEventListener("click", (event) => {
      if (line.length > 2) return;
      const i = scatter.nearest(...place(event), 6);
      if (i >= 0) select([i]);
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / 400), place(event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
      if (steps[event.key]) pan(...steps[event.key]);
      else if (event.key === "+" || event.key === "=") zoom(1.25);
      else if (event.key === "-") zoom(0.8);
      else if (event.key === "Escape") {
        line = [];
        drawLine();
        lasso(false);
      } else return;
      event.preventDefault();
    });
    R.$("lasso").addEventListener("click", () => lasso(!lassoing));
    R.$("select-view").addEventListener("click", () => {
      const { clientWidth: w, clientHeight: h } = canvas;
      select(scatter.inside([[0, 0], [w, 0], [w, h], [0, h]]));
    });
    R.$("reset-view").addEventListener("click", () => {
      scatter.reset();
      line = [];
      drawLine();
      scatter.draw();
    });
    R.$("colour").addEventListener("change", paint);
    R.$("copy").addEventListener("click", () => {
      R.$("command").select();
      if (navigator.clipboard) navigator.clipboard.writeText(R.$("command").value).catch(() => {});
    });
    new ResizeObserver(() => scatter.draw()).observe(canvas);
  };

  R.views.map = async () => {
    if (!scatter) {
      R.$("map-facts").textContent = "Drawing the map\u2026";
      const given = await R.attempt(() => R.source.map());
      R.$("map-facts").textContent = "";
      if (!given) return;
      scatter = new R.Scatter(R.$("points"), unpack(given));
      R.map = scatter;
      const method = { pca: "the first two principal components", umap: "UMAP" }[facts.method] || facts.method;
      R.$("map-facts").textContent = `${facts.count.toLocaleString("en")} images by ${method}; drag, scroll, or shift and drag`;
      listen();
    }
    await paint();
  };
}
