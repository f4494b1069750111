"""The tasks, one folder per task. To register a new task, add one line here."""

# Modules are named, not imported: a program imports only the task that it runs, so that --help stays fast.
TASKS = {
    "attention": "tasks.attention.task",
    "detection": "tasks.detection.task",
    "eda": "tasks.eda.task",
    "emotion": "tasks.emotion.task",
}
