"""The pipeline file, from text to a frozen `Pipeline`, and the small frozen plan that workers receive."""
