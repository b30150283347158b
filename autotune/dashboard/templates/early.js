document.documentElement.classList.add("js");
try { const t = localStorage.getItem("autotune-theme"); if (t) document.documentElement.dataset.theme = t; } catch { /* none is kept */ }
