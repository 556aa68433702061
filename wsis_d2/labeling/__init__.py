"""From cues to masks: one module per method."""
