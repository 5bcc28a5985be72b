"""Files: weights stored with their recipe, the JSON files of runs, and the original implementation's checkpoints."""
