document.documentElement.classList.add("js");
for (const set of document.querySelectorAll("[data-toggles]")) {
  const target = document.getElementById(set.dataset.toggles), name = set.dataset.name;
  for (const button of set.querySelectorAll("button"))
    button.addEventListener("click", () => {
      target.dataset[name] = button.value;
      for (const other of set.querySelectorAll("button"))
        other.setAttribute("aria-pressed", String(other === button));
    });
}
