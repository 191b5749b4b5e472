// A conversation is open in one tab: of two that write to it the last would keep only its own. A tab says what it opens, and who has it
// gives it up, or says that it is at work on it. Locks (navigator.locks) would do the same, but not where a page comes over plain http
// from another machine.

export class Tabs {
  /**
   * `isAtWork(id)`: whether this tab would lose something; `giveUp(id)`: another tab has this conversation from now on;
   * `refused(id)`: another tab is at work on it.
   */
  constructor(isAtWork, giveUp, refused) {
    this.channel = new BroadcastChannel("openherd");
    this.channel.addEventListener("message", ({ data: { opened, kept, insists } }) => {
      if (kept) refused(kept);
      else if (isAtWork(opened) && !insists) this.channel.postMessage({ kept: opened });
      else giveUp(opened);
    });
  }

  /** This tab has a conversation from now on; `insists`: whatever another does with it. */
  open(id, insists) {
    this.channel.postMessage({ opened: id, insists });
  }
}
