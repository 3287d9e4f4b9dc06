# Models with shards: a stage's job in so many parts, side by side, and one that makes their store. Each part is the
# stage's own rule, with another output.
ruleorder:
    gather_shards
    > generate_traces
    > capture_attention
    > ablate_heads
    > capture_activations
    > patch_pairs
    > measure_sentences
    > follow_patches


use rule generate_traces as generate_traces_shard with:
    output:
        traces=temp("<results>/traces/{model}/{dataset}/{condition}.{decoding}.{shard}.parquet"),
    log:
        "<logs>/traces/{model}/{dataset}/{condition}.{decoding}.{shard}.log",
    benchmark:
        "<benchmarks>/traces/{model}/{dataset}/{condition}.{decoding}.{shard}.tsv"


use rule capture_attention as capture_attention_shard with:
    output:
        attention=temp("<results>/attention/{model}/{dataset}.{shard}.h5"),
    log:
        "<logs>/attention/{model}/{dataset}.{shard}.log",
    benchmark:
        "<benchmarks>/attention/{model}/{dataset}.{shard}.tsv"


use rule ablate_heads as ablate_heads_shard with:
    output:
        answers=temp("<results>/ablated_answers/{model}/{dataset}.{shard}.parquet"),
    log:
        "<logs>/ablated_answers/{model}/{dataset}.{shard}.log",
    benchmark:
        "<benchmarks>/ablated_answers/{model}/{dataset}.{shard}.tsv"


use rule capture_activations as capture_activations_shard with:
    output:
        activations=temp("<results>/activations/{model}/{dataset}.{shard}.h5"),
    log:
        "<logs>/activations/{model}/{dataset}.{shard}.log",
    benchmark:
        "<benchmarks>/activations/{model}/{dataset}.{shard}.tsv"


use rule patch_pairs as patch_pairs_shard with:
    output:
        patching=temp("<results>/patching/{model}/{dataset}.{shard}.h5"),
    log:
        "<logs>/patching/{model}/{dataset}.{shard}.log",
    benchmark:
        "<benchmarks>/patching/{model}/{dataset}.{shard}.tsv"


use rule measure_sentences as measure_sentences_shard with:
    output:
        sentences=temp("<results>/sentences/{model}/{dataset}.{shard}.h5"),
    log:
        "<logs>/sentences/{model}/{dataset}.{shard}.log",
    benchmark:
        "<benchmarks>/sentences/{model}/{dataset}.{shard}.tsv"


use rule follow_patches as follow_patches_shard with:
    output:
        mechanism=temp("<results>/mechanism/{model}/{dataset}.{shard}.h5"),
    log:
        "<logs>/mechanism/{model}/{dataset}.{shard}.log",
    benchmark:
        "<benchmarks>/mechanism/{model}/{dataset}.{shard}.tsv"


rule gather_shards:
    input:
        shards=lambda wildcards: expand(
            "<results>/{store}/{model}/{table}.{shard}.{suffix}",
            shard=STUDY.shards(wildcards.model),
            **wildcards,
        ),
    output:
        store="<results>/{store}/{model}/{table}.{suffix}",
    log:
        "<logs>/{store}/{model}/{table}.{suffix}.log",
    wildcard_constraints:
        model="|".join(STUDY.sharded_models),
        store="traces|attention|ablated_answers|activations|patching|sentences|mechanism",
        # never a shard itself, which Snakemake would try to gather from shards of its own, and so on
        table=r"(?!.*-of-\d+\.)[^/]+(/with(out)?_reasoning\.[^/]+)?",
        suffix="parquet|h5",
    conda:
        ENVIRONMENT
    script:
        "../scripts/gather_shards.py"
