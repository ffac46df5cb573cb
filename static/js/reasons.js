// The reasons for a missing connection, as texts: pure functions, no DOM.

// Codes of centrifuge-js (its build/codes.d.ts), and those of the server whose reason is too short
// for a reader. Any other code is shown with its own reason.
const CONNECTING = new Map([
  [1, "the connection was lost"],
  [2, "the server stopped answering"],
  [3, "the server did not answer in time"],
  [3001, "the server is shutting down"],
  [3008, "this page could not keep up"],
  [3012, "this page did not answer in time"],
]);

const PROXY_ERRORS = new Set([502, 503, 504]);

const UNAUTHORIZED = 1; // the client has no new token in place of one that has expired

// A server that has none of our URLs for connections, or not for this method.
const UNKNOWN_URL = new Set([404, 405, 410, 501]);

const DISCONNECTED = new Map([
  [0, "disconnected"],
  [UNAUTHORIZED, "not authorized"],
  [2, "the server answered in another protocol"],
  [3, "a message was too large"],
]);

const NO_REPLY = 3; // to a subscribe: over a fallback, a refused command has no other consequence

/**
 * The reason for the wait before the next attempt to connect; `answered` is the text of the server's
 * refusal, if it has sent one since it was connected.
 */
export function reconnectReason({ code, reason }, online, answered) {
  if (!online) return "this device is offline";
  if (code === NO_REPLY && answered) return answered;
  return CONNECTING.get(code) ?? reason ?? "the connection was lost";
}

/**
 * The reason of a failed attempt to connect, from an error event of the client; `answered` is the
 * text of the server's refusal, if it has sent one.
 */
export function failureReason({ type, error }, online, answered) {
  if (!online) return "this device is offline";
  if (answered) return answered;
  if (type === "transport") return "no answer from the server";
  return error?.message || "the server refused the connection";
}

/** The reason of an attempt that was answered with this HTTP status and body. */
export function answerReason(status, body) {
  const other = UNKNOWN_URL.has(status) ? "no pushserver of this version is there; " : "";
  const answer = `${other}the server answered ${status}`;
  try {
    return `${answer}: ${JSON.parse(body).error.message}`;
  } catch {
    return PROXY_ERRORS.has(status) ? `the proxy answered ${status}: no server behind it` : answer;
  }
}

/** The reason why no attempt of a page of this origin is answered, though the server is there. */
export function originReason(origin) {
  return `the server refuses pages of ${origin}: it has to be in server.allowed_origins`;
}

/** The reason of a final close; `tokenless`: whether the client has no function that gets tokens. */
export function closeReason({ code, reason }, tokenless = false) {
  if (code === UNAUTHORIZED && tokenless) return "the token has expired: connect() needs getToken";
  const words = DISCONNECTED.get(code) ?? reason ?? "disconnected";
  return code >= 100 ? `${words} (${code})` : words;
}

const FAILED_CALLS = new Map([
  [1, "the server did not answer in time"],
  [2, "the connection was lost before the answer"],
  [11, "the connection was lost before the answer"],
]);

/**
 * The Error of a request that the server refused, with its code and text, or that got no answer; then
 * the code is below 100.
 */
export function callError({ code, message }, reason) {
  const unconnected = code >= 100 ? "" : `not connected${reason && `: ${reason}`}`;
  const text = code >= 100 ? message : (FAILED_CALLS.get(code) ?? unconnected);
  return Object.assign(new Error(text), { code });
}
