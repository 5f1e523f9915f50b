# Networks; a profile gives this rule a GPU.
rule features_bucket:
    input:
        cohort="<cohort>/buckets/{bucket}.parquet",
        tiles=features_tiles,
        recompute=recompute("features"),
    output:
        "<features>/{run}/buckets/{bucket}.parquet",
    log:
        "<logs>/features/{run}/{bucket}.log",
    wildcard_constraints:
        run=runs(NETWORKS),
    conda:
        "../../envs/gpu.yaml"
    envmodules:
        *GPU_MODULES,
    threads: 8
    resources:
        mem_mb=mem_mb("features"),
        runtime=minutes("features"),
    params:
        slides=bucket_digest,
        max_unreadable=PLAN.config.features.max_unreadable,
    shell:
        "slidemill features --run {wildcards.run} --bucket {wildcards.bucket} "
        "--threads {threads} > {log} 2>&1"


# Handcrafted encoders have no use for a GPU; they go side by side, a bucket each.
use rule features_bucket as handcrafted_bucket with:
    wildcard_constraints:
        run=runs(name for name in FEATURES if name not in NETWORKS),
    conda:
        "../../envs/cpu.yaml"
    envmodules:
        *MODULES,
    threads: 1


rule features_manifest:
    input:
        features_buckets,
    output:
        "<features>/{run}/manifest.parquet",
    log:
        "<logs>/features/{run}/manifest.log",
    conda:
        "../../envs/cpu.yaml"
    envmodules:
        *MODULES,
    params:
        max_failed=PLAN.config.cohort.max_failed,
    shell:
        "slidemill features --run {wildcards.run} --gather > {log} 2>&1"


rule features:
    input:
        stage_files("features"),
