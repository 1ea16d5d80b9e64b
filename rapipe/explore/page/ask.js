/* Ask: an image, changed or not; the answer; the neighbours; what is hidden. */
"use strict";

{
  const PAGE = 30;
  const hidden = { ids: new Set(), classes: new Set(), sources: new Set(), version: "" };
  let answer = null;
  let asking = false;
  let again = false;
  let page = 0;

  const question = () => ({
    image: R.state.image,
    classifier: R.state.classifier,
    k: Number(R.$("k").value) || 0,
    noise_std: Number(R.$("noise").value),
    corruption: R.$("corruption").value,
    severity: Number(R.$("severity").value),
    hidden: {
      ids: [...hidden.ids],
      classes: [...hidden.classes],
      sources: [...hidden.sources],
      version: hidden.version,
    },
  });

  /* One question at a time: while one is answered, the last one that came waits. */
  const ask = async () => {
    R.remember();
    if (asking) {
      again = true;
      return;
    }
    asking = true;
    do {
      again = false;
      const given = await R.attempt(() => R.source.ask(question()));
      if (given) {
        answer = given;
        draw();
      }
    } while (again);
    asking = false;
  };

  const draw = () => {
    const wrong = answer.truth && answer.predicted !== answer.truth;
    R.$("why").textContent = answer.why;
    R.$("why").className = `why ${answer.truth ? (wrong ? "wrong" : "right") : ""}`;
    R.$("asked-picture").src = answer.picture;
    R.$("asked-picture").alt = answer.truth || "the image that is asked about";
    R.$("asked-caption").textContent =
      answer.truth ? `It is ${answer.truth}.` : "Its class is not known.";
    R.$("asked-id").textContent = `id ${answer.image}`;
    R.$("predictions").replaceChildren(...answer.predictions.map(prediction));
    R.$("vote").replaceChildren(...vote());
    R.$("milliseconds").textContent =
      `${answer.milliseconds} ms` + (answer.bank ? `, ${answer.bank.toLocaleString("en")} rows searched` : "");
    drawNeighbours();
    drawHidden();
    for (const button of R.$("test-images").children) {
      button.setAttribute("aria-current", String(button.dataset.id === answer.image));
    }
  };

  const row = (name, share, value) => {
    const fill = R.make("div", { className: "fill" });
    fill.style.width = `${100 * share}%`;
    const element = R.make("div", { className: "row" },
      R.make("span", { className: "name", textContent: name, title: name }),
      R.make("div", { className: "track" }, fill),
      R.make("span", { className: "value", textContent: value }));
    if (name === answer.truth) element.classList.add("truth");
    return element;
  };

  const prediction = (one) => R.make("div", { className: "prediction" },
    R.make("h2", { textContent: one.name[0].toUpperCase() + one.name.slice(1) }),
    ...one.classes.map((c) => row(c.class, c.probability, R.percent(c.probability))));

  const vote = () => {
    if (!answer.neighbours.length) return [];
    const purity = answer.purity === null ? "" : ` (label purity ${R.percent(answer.purity)})`;
    return [
      R.make("h2", { textContent: `Classes of the ${answer.k} neighbours${purity}` }),
      ...answer.vote.slice(0, 5).map((v) => row(v.class, v.count / answer.k, String(v.count))),
    ];
  };

  const drawNeighbours = () => {
    const key = R.$("sort").value;
    const sorted = [...answer.neighbours].sort((a, b) => b[key] - a[key]);
    const target = answer.truth || answer.predicted;
    R.$("neighbours").replaceChildren(...sorted.map((n) => {
      const sign = n.effect >= 0 ? "+" : "\u2212";
      const effect = R.make("dd", { className: n.effect >= 0 ? "up" : "down",
        textContent: `${sign}${Math.abs(100 * n.effect).toFixed(1)}` });
      const button = R.make("button", { type: "button", disabled: R.source.fixed,
        className: n.class === target ? "same" : "other",
        title: `${n.class || "no class"}, from ${n.source}, id ${n.id}` },
        R.picture(n.id, n.class || "no class"),
        R.make("div", { className: "class", textContent: n.class || "no class" }),
        R.make("dl", {},
          R.make("dt", { textContent: "similarity" }), R.make("dd", { textContent: n.similarity.toFixed(3) }),
          R.make("dt", { textContent: "attention" }), R.make("dd", { textContent: R.percent(n.attention) }),
          R.make("dt", { textContent: "effect" }), effect));
      button.addEventListener("click", () => {
        hidden.ids.add(n.id);
        ask();
      });
      return button;
    }));
  };

  const drawHidden = () => {
    R.$("hidden-ids").replaceChildren(...[...hidden.ids].map((id) => {
      const chip = R.make("button", { type: "button", title: `Show ${id} again`, "aria-label": `Show image ${id} again` },
        R.picture(id, ""), " \u00d7");
      chip.addEventListener("click", () => {
        hidden.ids.delete(id);
        ask();
      });
      return chip;
    }));
    const count = hidden.ids.size + hidden.classes.size + hidden.sources.size + (hidden.version ? 1 : 0);
    R.$("show-all").disabled = !count;
  };

  const choices = (box, entries, chosen) => {
    box.replaceChildren(...entries.map(({ name, rows }) => {
      const input = R.make("input", { type: "checkbox" });
      input.addEventListener("change", () => {
        if (input.checked) chosen.add(name);
        else chosen.delete(name);
        ask();
      });
      return R.make("label", {}, input, `${name} (${rows.toLocaleString("en")})`);
    }));
  };

  const testImages = () => {
    const wanted = R.$("test-class").value;
    return R.about.test.filter((t) => wanted === "" || String(t.class) === wanted);
  };

  const drawTest = () => {
    const images = testImages();
    const pages = Math.max(1, Math.ceil(images.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    R.$("test-page").textContent = `${page + 1} of ${pages}`;
    R.$("test-previous").disabled = page === 0;
    R.$("test-next").disabled = page === pages - 1;
    R.$("test-images").replaceChildren(...images.slice(page * PAGE, (page + 1) * PAGE).map((t) => {
      const name = R.about.classes[t.class];
      const button = R.make("button", { type: "button", title: name, "aria-current": String(t.id === R.state.image) },
        R.picture(t.id, name));
      button.dataset.id = t.id;
      button.addEventListener("click", () => choose(t.id));
      return button;
    }));
  };

  const choose = (id) => {
    R.state.image = id;
    ask();
  };

  const upload = async (file) => {
    const kept = await R.attempt(() => R.source.upload(file));
    if (kept) choose(kept.image);
  };

  /* What only a running server can do is not offered in a static copy. */
  const fix = () => {
    for (const id of ["drop", "hidden", "k-label", "corruption-label", "severity-label", "neighbour-help"]) {
      R.$(id).hidden = true;
    }
    const levels = [0, ...R.about.noise_std.filter((std) => std > 0)];
    const select = R.make("select", { id: "noise" });
    R.options(select, levels.map((std) => [std, String(std)]));
    R.$("noise").replaceWith(select);
    R.$("noise-value").hidden = true;
  };

  R.listeners.push(() => {
    R.$("k").value = "";
  });
  R.views.ask = () => {
    const retrieves = R.classifier().retrieval !== "none";
    R.$("neighbours").parentElement.hidden = !retrieves;
    R.$("k").placeholder = R.about.memory ? R.about.memory.k : "";
    ask();
  };
  R.ready.push(() => {
    if (R.source.fixed) fix();
    R.options(R.$("test-class"), [["", "all"], ...R.about.classes.map((name, c) => [c, name])]);
    R.options(R.$("corruption"), [["", "none"], ...R.about.corruptions.map((name) => [name, name.replaceAll("_", " ")])]);
    const memory = R.about.memory;
    if (memory) {
      choices(R.$("hidden-classes"), memory.classes, hidden.classes);
      choices(R.$("hidden-sources"), memory.sources, hidden.sources);
      R.options(R.$("version"), [["", "now"], ...memory.versions.map((tag) => [tag, tag])]);
    }
    R.$("version-label").hidden = !memory || !memory.versions.length;
    drawTest();

    for (const id of ["noise", "severity"]) {
      R.$(id).addEventListener("input", () => {
        R.$(`${id}-value`).textContent = R.$(id).value;
        ask();
      });
    }
    R.$("corruption").addEventListener("change", ask);
    R.$("k").addEventListener("change", ask);
    R.$("sort").addEventListener("change", () => answer && drawNeighbours());
    R.$("version").addEventListener("change", () => {
      hidden.version = R.$("version").value;
      ask();
    });
    R.$("show-all").addEventListener("click", () => {
      for (const group of [hidden.ids, hidden.classes, hidden.sources]) group.clear();
      hidden.version = "";
      R.$("version").value = "";
      for (const input of R.$("hidden").querySelectorAll("input")) input.checked = false;
      ask();
    });
    R.$("test-class").addEventListener("change", () => {
      page = 0;
      drawTest();
    });
    for (const [id, step] of [["test-previous", -1], ["test-next", 1]]) {
      R.$(id).addEventListener("click", () => {
        page += step;
        drawTest();
      });
    }
    R.$("test-random").addEventListener("click", () => {
      const images = testImages();
      if (images.length) choose(images[Math.floor(Math.random() * images.length)].id);
    });
    if (R.source.fixed) return;

    const drop = R.$("drop");
    for (const type of ["dragover", "dragleave", "drop"]) {
      window.addEventListener(type, (event) => {
        event.preventDefault();
        drop.classList.toggle("over", type === "dragover");
        if (type === "drop" && event.dataTransfer.files.length) {
          R.open("ask");
          upload(event.dataTransfer.files[0]);
        }
      });
    }
    R.$("file").addEventListener("change", (event) => {
      if (event.target.files.length) upload(event.target.files[0]);
    });
    window.addEventListener("paste", (event) => {
      const file = [...event.clipboardData.files][0];
      if (file) {
        R.open("ask");
        upload(file);
      }
    });
  });
}
