rule features_bucket:
    input:
        cohort="<cohort>/buckets/{bucket}.parquet",
        tiles=features_tiles,
        recompute=recompute("features", "failed"),
    output:
        "<features>/{run}/buckets/{bucket}.parquet",
    log:
        "<logs>/features/{run}/{bucket}.log",
    conda:
        "../../envs/gpu.yaml"
    threads: features_threads
    resources:
        mem_mb=growing_mem(16000),
        runtime=growing_time(240),
    params:
        slides=bucket_digest,
        max_unreadable=PLAN.config.features.max_unreadable,
    shell:
        "slidemill features --run {wildcards.run} --bucket {wildcards.bucket} "
        "--threads {threads} > {log} 2>&1"


rule features_manifest:
    input:
        features_buckets,
    output:
        "<features>/{run}/manifest.parquet",
    log:
        "<logs>/features/{run}/manifest.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        max_failed=PLAN.config.cohort.max_failed,
    shell:
        "slidemill features --run {wildcards.run} --gather > {log} 2>&1"


rule features:
    input:
        stage_files("features"),
