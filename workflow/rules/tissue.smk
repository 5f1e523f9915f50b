rule tissue_bucket:
    input:
        cohort="<cohort>/buckets/{bucket}.parquet",
        recompute=recompute("tissue", "failed"),
    output:
        "<tissue>/buckets/{bucket}.parquet",
    log:
        "<logs>/tissue/{bucket}.log",
    conda:
        "../../envs/cpu.yaml"
    threads: 4
    resources:
        mem_mb=growing_mem(4000),
        runtime=growing_time(120),
    params:
        slides=bucket_digest,
    shell:
        "slidemill tissue --bucket {wildcards.bucket} "
        "--threads {threads} > {log} 2>&1"


rule tissue_manifest:
    input:
        bucket_paths(PLAN.tissue),
    output:
        "<tissue>/manifest.parquet",
    log:
        "<logs>/tissue/manifest.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        max_failed=PLAN.config.cohort.max_failed,
    shell:
        "slidemill tissue --gather > {log} 2>&1"


rule tissue:
    input:
        stage_files("tissue"),
