rule tissue_bucket:
    input:
        "<cohort>/buckets/{bucket}.parquet",
    output:
        "<tissue>/buckets/{bucket}.parquet",
    params:
        slides=bucket_digest,
    log:
        "<logs>/tissue/{bucket}.log",
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=growing_mem(4000),
        runtime=growing_time(120),
    shell:
        "slidemill tissue --bucket {wildcards.bucket} > {log} 2>&1"


rule tissue_manifest:
    input:
        bucket_paths(PLAN.tissue),
    output:
        "<tissue>/manifest.parquet",
    params:
        max_failed=PLAN.config.cohort.max_failed,
    log:
        "<logs>/tissue/manifest.log",
    conda:
        "../../envs/cpu.yaml"
    shell:
        "slidemill tissue --gather > {log} 2>&1"


rule tissue:
    input:
        stage_files("tissue"),
