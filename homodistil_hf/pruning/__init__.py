"""The choice of units that go, and the moment: schedule, scores, masks, compaction. No losses, no Trainer."""
