"use strict";
// A click in the drawing, or on a segment of the table, plays the sound there.
const sound = document.querySelector("audio");
const rows = [...document.querySelectorAll("svg.row")];
const cells = [...document.querySelectorAll("tr[data-start]")];
let until = Infinity;

function play(start, end) {
  until = end;
  sound.currentTime = start;
  sound.play();
}

for (const row of rows) {
  const [start, span] = [Number(row.dataset.start), Number(row.dataset.span)];
  row.addEventListener("click", (event) => {
    const box = row.getBoundingClientRect();
    play(start + ((event.clientX - box.left) / box.width) * span, Infinity);
  });
}
for (const cell of cells) {
  cell.querySelector("button").addEventListener("click", () =>
    play(Number(cell.dataset.start), Number(cell.dataset.end)));
}

function follow() {
  const now = sound.currentTime;
  if (now >= until) {
    sound.pause();
    until = Infinity;
  }
  for (const row of rows) {
    const [start, span] = [Number(row.dataset.start), Number(row.dataset.span)];
    const here = (now - start) / span;
    const cursor = row.querySelector(".cursor");
    cursor.style.display = here >= 0 && here < 1 && now > 0 ? "" : "none";
    cursor.setAttribute("transform", `translate(${here * 1000} 0)`);
  }
  for (const cell of cells) {
    cell.classList.toggle("now",
      now >= Number(cell.dataset.start) && now < Number(cell.dataset.end));
  }
  if (!sound.paused) requestAnimationFrame(follow);
}
for (const event of ["play", "seeked", "pause"]) {
  sound.addEventListener(event, follow);
}
