// Sends the pasted key once. The API keeps it in a cookie that no script can read.

const form = document.getElementById("form");
const field = document.getElementById("key");
const problem = document.getElementById("problem");

// Only a page of this server: "//other.example" and "https://other.example" are other hosts.
function nextPage() {
  const wanted = new URLSearchParams(location.search).get("next") ?? "/operations";
  const url = new URL(wanted, location.origin);
  return url.origin === location.origin ? url.pathname + url.search : "/operations";
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  problem.textContent = "";
  try {
    const answer = await fetch("/v1/session", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ key: field.value.trim() }),
    });
    if (answer.ok) {
      location.assign(nextPage());
      return;
    }
    problem.textContent =
      answer.status < 500
        ? "This key is not valid. It may have been revoked, or a part of it is missing."
        : "The server cannot check the key now. Try again in a minute.";
  } catch {
    problem.textContent = "The server cannot be reached.";
  }
  field.select();
});

field.focus();
