"""One update, and its parts.

train_step.py     a pure function of state and batch; train_state.py holds every array of a run
roles.py          the networks of a run: what each sees, and how it follows; forward.py runs them
recipe.py         builds all of it from a config; needs.py checks what the objectives ask for
photometric.py    color operations on the device; canvas.py cuts the crops there
placement.py      chooses kernels and shared weights for a mesh
health.py         measures of a step that show a collapse
"""
