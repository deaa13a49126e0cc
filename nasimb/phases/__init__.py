"""The phases of a run, one file each: every one charges the ledger, shows what it does and can be stopped."""
