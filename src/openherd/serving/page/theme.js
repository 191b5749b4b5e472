// Sets the chosen theme before the first paint: a module would run after it, and a dark page would flash white.
try {
  const { theme } = JSON.parse(localStorage.getItem("openherd.settings") ?? "{}");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // No storage, or none of ours: the system's theme.
}
