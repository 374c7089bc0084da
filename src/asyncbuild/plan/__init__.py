"""What will be done: stages, steps, what each of them needs. Pure; begin at `planner.make_plan`."""
