"""Which units go, and when: schedule, scores, masks, compaction; no losses, no Trainer."""
