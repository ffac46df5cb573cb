// The rules for the names of channels, as in pushserver/channels/names.py.

export const MAX_NAME = 128; // characters

const USERS = "#[A-Za-z0-9_.@-]+(?:,[A-Za-z0-9_.@-]+)*";
const NAME = new RegExp(`^(?:\\$?[A-Za-z0-9][A-Za-z0-9_.:@-]*(?:${USERS})?|${USERS})$`);

/** Whether the text is a valid name of a channel. */
export function isName(text) {
  return text.length <= MAX_NAME && NAME.test(text);
}
