# Configuration in, targets out. The rules are in workflow/rules, one file per stage.
import sys
from os import environ, pathsep

from snakemake.utils import min_version

min_version("9.27")
# Where this file is, also when another workflow uses it as a module; a study's paths start where Snakemake runs.
HOME = workflow.current_basedir.get_path_or_uri(secret_free=True)
SCRIPTS = f"{HOME}/workflow/scripts"
sys.path.insert(0, SCRIPTS)
# Jobs take the library from here, too, and not from a version of it that is installed.
environ["PYTHONPATH"] = pathsep.join(filter(None, [SCRIPTS, environ.get("PYTHONPATH")]))

from r2a.devices import share_of_cores
from r2a.study import CONDITIONS, load_study, stage_settings
from r2a.study.checks import left_out_in_words
from r2a.study.section import located
from r2a.estimate import announce

# Your own study (--configfile, or a module's config) replaces the shipped one; if they were merged, both would run.
if not workflow.overwrite_configfiles and "models" not in config:

    configfile: f"{HOME}/config/config.yaml"


STUDY = load_study(config, ", ".join(map(str, workflow.configfiles)), workflow.configfiles)
if workflow.is_main_process:  # jobs read this file, too
    announce(STUDY, logger)
    for words in left_out_in_words(STUDY):
        logger.warning(words)


pathvars:
    results=f"results/{STUDY.study}",
    logs=f"results/{STUDY.study}/logs",
    benchmarks=f"results/{STUDY.study}/benchmarks",


wildcard_constraints:
    model="|".join(STUDY.models),
    dataset="|".join(STUDY.datasets),
    judge="|".join(STUDY.judges),
    condition="|".join(CONDITIONS),
    decoding="|".join(STUDY.decodings),
    shard=r"\d+-of-\d+",


n_rules_elsewhere = len(list(workflow.rules))  # of a workflow that uses this one as a module


include: "workflow/rules/common.smk"
include: "workflow/rules/datasets.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/traces.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/attention.smk"
include: "workflow/rules/heads.smk"
include: "workflow/rules/perturbation.smk"
include: "workflow/rules/hints.smk"
include: "workflow/rules/judging.smk"
include: "workflow/rules/ablation.smk"
include: "workflow/rules/patching.smk"
include: "workflow/rules/sentences.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/explorer.smk"
include: "workflow/rules/report.smk"


if STUDY.sharded_models:

    include: "workflow/rules/shards.smk"


for place, declared in enumerate(reversed(list(workflow.rules)[n_rules_elsewhere:]), start=1):
    declared.priority = priority_of(0 if declared.priority == LAST else place)


rule all:
    default_target: True
    input:
        "<results>/summary.md",
        "<results>/explorer/index.html",


onstart:
    from r2a.plan import write_plan

    write_plan(workflow.dag.needrun_jobs())
    if STUDY.environment == "gpu" and workflow.local_exec and "gpu" not in workflow.global_resources:
        logger.warning(
            "Jobs that wait for a GPU count the wait as their own time: limit them by --resources gpu=N, the number of GPUs."
        )
