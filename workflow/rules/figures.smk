# Every registered figure (workflow/scripts/r2a/figures). One job draws those of one analysis, of the whole study or of
# one model and dataset, from the files that they read.
from r2a.figures.registry import figure_jobs, write_captions

CAPTIONS = Path(".snakemake/captions").resolve()
if workflow.is_main_process:
    write_captions(CAPTIONS, stage_settings(STUDY, "figures"))

for job in figure_jobs(STUDY):

    rule:
        name:
            f"draw_{job.name}"
        input:
            **job.inputs,
        output:
            **{
                figure.name: report(
                    f"<results>/figures/{figure.path}.png",
                    caption=f"{CAPTIONS}/{figure.name}.rst",
                    category=figure.category,
                    subcategory=job.subject,
                    labels={"result": figure.label},
                )
                for figure in job.figures
            },
            vectors=[f"<results>/figures/{figure.path}.svg" for figure in job.figures],
            numbers=[f"<results>/figures/{figure.path}.csv" for figure in job.figures],
        log:
            f"<logs>/figures/{job.folder}{job.name}.log",
        localrule: True
        conda:
            ENVIRONMENT
        params:
            settings=lambda wildcards, drawn=job.drawn: settings("figures")(wildcards) | {"figures": drawn},
        script:
            "../scripts/draw_figures.py"
