# What people read: the findings are registered (workflow/scripts/r2a/summary), as figures are.
from r2a.figures.registry import figure_paths
from r2a.summary.registry import finding_inputs, finding_settings


rule write_summary:
    input:
        **finding_inputs(STUDY),
        figures=[f"<results>/figures/{path}.png" for path in figure_paths(STUDY)],
        traces=written("traces"),
    output:
        page=report(
            "<results>/summary.html",
            caption="../report/summary.rst",
            category="Summary",
            labels={"result": "summary"},
        ),
        text="<results>/summary.md",
        short="<results>/summary.txt",
        verdicts="<results>/verdicts.json",
    log:
        "<logs>/summary.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=settings("summary"),
        findings=finding_settings(STUDY),
        benchmarks=f"results/{STUDY.study}/benchmarks",  # params take no pathvars
    script:
        "../scripts/write_summary.py"
