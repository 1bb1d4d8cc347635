"""The judge of the scheduler: an oracle, a simulator on a fake clock, and controls that must fail what it passes."""
