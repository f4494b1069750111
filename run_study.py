"""Run one config over seeds, folds, songs, listeners or settings, and write one table of scores with intervals.

python run_study.py configs/eda_tcn.json --seeds 0 1 2 --folds 5
python run_study.py configs/eda_tcn.json --set learning_rate=1e-3,3e-4 --output_dir outputs/y
python run_study.py configs/baby_cry.json --seeds 0 1 2
python run_study.py configs/eda_tcn.json --leave_one_listener_out --normalisation_scope global --output_dir outputs/x
python run_study.py configs/eda_tcn.json --leave_one_song_out --output_dir outputs/songs
"""

import sys

from launch.start import begin
from launch.study_settings import parse_study, read_study
from system.process import one_line_errors
from system.text import plural

# Check the command line before the imports below, which take seconds.
if __name__ == "__main__":
    begin(read_study)

from launch.study import begin_study, collect, plan, run_cells
from reporting.study import study_files, study_table
from training.run_folder import write_pages


def main(argv: list[str]) -> None:
    """Plan the runs, do those that are not finished, and write the table."""
    study = parse_study(argv)
    cells = plan(study)
    if study.dry_run:
        print("\n".join(f"{cell.name}: {' '.join(cell.arguments)}" for cell in cells))
        return
    begin_study(study, cells)
    failed = run_cells(study, cells)
    results = collect(study, cells)
    write_pages(study.folder, study_files(results))
    print(study_table(results))
    print(f"table: {study.folder / 'table.html'} (and .md, .csv); all scores of all runs: study.csv")
    # The table has the finished runs, but the exit status must show that it is incomplete.
    if failed:
        raise SystemExit(
            f"{len(failed)} of {plural(len(cells), 'run')} failed. Run the same command to try them again."
        )


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
