import subprocess
import sys


def test_the_driver_can_use_fitness_without_anything_heavy():
    code = (
        "import sys, fitness.tasks, fitness.splits, fitness.estimate, fitness.objectives\n"
        "import fitness.engine, fitness.items\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'datasets', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
