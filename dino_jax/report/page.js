"use strict";
for (const film of document.querySelectorAll(".film")) {
  const slider = film.querySelector("input"), output = film.querySelector("output");
  const steps = slider.dataset.steps.split(" ");
  const show = () => {
    film.style.setProperty("--frame", slider.value);
    output.textContent = steps[slider.value];
  };
  slider.addEventListener("input", show);
  show();
}
