/* Mistakes: test images by outcome and class, the confusion matrix, and rows of the memory. */
"use strict";

{
  const PAGE = 120;
  let listed = null;
  let page = 0;

  const matches = (row) => {
    const [outcome, truth, said] = ["outcome", "truth", "said"].map((id) => R.$(id).value);
    if (outcome === "all wrong" && row.truth === row.predicted) return false;
    if (outcome && outcome !== "all wrong" && row.outcome !== outcome) return false;
    if (truth !== "" && row.truth !== Number(truth)) return false;
    return said === "" || row.predicted === Number(said);
  };

  const tile = (id, text) => {
    const button = R.make("button", { type: "button", title: `id ${id}` },
      R.picture(id, text), R.make("span", { textContent: text }));
    button.addEventListener("click", () => R.ask(id));
    return button;
  };

  const draw = () => {
    const rows = listed.rows.filter(matches).sort((a, b) => b.confidence - a.confidence);
    const pages = Math.max(1, Math.ceil(rows.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const range = rows.length ? `, ${page * PAGE + 1} to ${Math.min(rows.length, (page + 1) * PAGE)}` : "";
    R.$("mistake-count").textContent =
      `${rows.length.toLocaleString("en")} of ${listed.rows.length.toLocaleString("en")} test images${range}; the surest first`;
    R.$("mistake-previous").disabled = page === 0;
    R.$("mistake-next").disabled = page === pages - 1;
    R.$("mistake-images").replaceChildren(...rows.slice(page * PAGE, (page + 1) * PAGE).map((row) => {
      const said = R.about.classes[row.predicted];
      const text = row.truth === row.predicted ? said : `${R.about.classes[row.truth]} \u2192 ${said}`;
      return tile(row.id, `${text} ${R.percent(row.confidence)}`);
    }));
  };

  const confusion = () => {
    const classes = R.about.classes;
    const head = R.make("tr", {}, R.make("th", { textContent: "is \u2193 says \u2192", scope: "col" }),
      ...classes.map((name) => R.make("th", { textContent: name, scope: "col" })));
    const rows = listed.confusion.map((counts, truth) => {
      const all = Math.max(1, counts.reduce((a, b) => a + b, 0));
      return R.make("tr", {}, R.make("th", { textContent: classes[truth], scope: "row" }),
        ...counts.map((count, said) => {
          const button = R.make("button", { type: "button", textContent: count || "\u00b7",
            "aria-label": `${count} images of ${classes[truth]} are taken for ${classes[said]}` });
          const tone = truth === said ? "var(--good)" : "var(--bad)";
          button.style.background = `color-mix(in srgb, ${tone} ${Math.round((70 * count) / all)}%, var(--soft))`;
          button.addEventListener("click", () => {
            R.$("outcome").value = "";
            R.$("truth").value = truth;
            R.$("said").value = said;
            page = 0;
            draw();
            R.$("mistake-images").scrollIntoView({ block: "nearest" });
          });
          return R.make("td", {}, button);
        }));
    });
    R.$("confusion").replaceChildren(R.make("thead", {}, head), R.make("tbody", {}, ...rows));
  };

  const show = (id, tiles) => {
    R.$(id).replaceChildren(...tiles);
    R.$(id).parentElement.hidden = !tiles.length;
  };

  const lists = () => {
    show("duplicates", listed.duplicates.slice(0, 200).map((row) => {
      const button = R.make("button", { type: "button", title: `test image ${row.test_id}, memory ${row.bank_id}` },
        R.make("div", { className: "pair" }, R.picture(row.test_id, "test image"), R.picture(row.bank_id, "in the memory")),
        R.make("span", { textContent: `${Number(row.similarity).toFixed(4)}${Number(row.same_class) ? "" : ", another class"}` }));
      button.addEventListener("click", () => R.ask(row.test_id));
      return button;
    }));
    for (const id of ["harmful", "helpful"]) {
      show(id, listed[id].map((row) => tile(row.id, `${row.class || "no class"} ${(100 * row.effect).toFixed(1)}`)));
    }
  };

  R.views.mistakes = async () => {
    if (!listed || listed.classifier !== R.state.classifier) {
      R.$("mistake-count").textContent = "Asking about every test image\u2026";
      const given = await R.attempt(() => R.source.mistakes(R.state.classifier));
      if (!given) {
        R.$("mistake-count").textContent = "";
        return;
      }
      listed = given;
      page = 0;
      const kinds = [...new Set(listed.rows.map((row) => row.outcome))].sort();
      R.options(R.$("outcome"), [["", "all"], ["all wrong", "all wrong"], ...kinds.map((k) => [k, k])], "all wrong");
      confusion();
      lists();
    }
    draw();
  };
  R.ready.push(() => {
    const classes = [["", "any"], ...R.about.classes.map((name, c) => [c, name])];
    R.options(R.$("truth"), classes);
    R.options(R.$("said"), classes);
    for (const id of ["outcome", "truth", "said"]) {
      R.$(id).addEventListener("change", () => {
        page = 0;
        draw();
      });
    }
    for (const [id, step] of [["mistake-previous", -1], ["mistake-next", 1]]) {
      R.$(id).addEventListener("click", () => {
        page += step;
        draw();
      });
    }
  });
}
