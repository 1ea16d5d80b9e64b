
// Sorts a table by a heading: click it, or press Enter or Space on it. Again: the other way round,
// then as it was.
const number = (text) => {
  const start = text.replace(/(\d),(?=\d{3})/g, "$1").match(/^[<\s]*([+-]?\d*\.?\d+)/);
  return start ? parseFloat(start[1]) : NaN;
};
const compare = (a, b) => {
  const [x, y] = [number(a), number(b)];
  return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) || a.localeCompare(b) : x - y;
};
const next = { none: "ascending", ascending: "descending", descending: "none" };
for (const table of document.querySelectorAll("table.sortable")) {
  const rows = [...table.tBodies[0].rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const order = next[head.getAttribute("aria-sort")];
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", order);
      const cell = (row) => row.cells[column].textContent;
      const empty = (row) => cell(row) === "\u2013";
      const sign = order === "descending" ? -1 : 1;
      const sorted = (a, b) => empty(a) - empty(b) || sign * compare(cell(a), cell(b));
      table.classList.toggle("sorted", order !== "none");
      table.tBodies[0].append(...(order === "none" ? rows : [...rows].sort(sorted)));
    });
  });
}
