"""The tasks, one folder each; a new one is registered by one line here."""

TASKS = {
    "attention": "tasks.attention.task",
    "detection": "tasks.detection.task",
    "eda": "tasks.eda.task",
    "emotion": "tasks.emotion.task",
}
