rule tissue_bucket:
    input:
        cohort="<cohort>/buckets/{bucket}.parquet",
        recompute=recompute("tissue", PLAN.tissue.name),
    output:
        "<tissue>/buckets/{bucket}.parquet",
    log:
        "<logs>/tissue/{bucket}.log",
    conda:
        "../../envs/cpu.yaml"
    envmodules:
        *MODULES,
    threads: 4
    resources:
        mem_mb=mem_mb("tissue"),
        runtime=minutes("tissue"),
    params:
        slides=bucket_digest,
    shell:
        "slidemill tissue --bucket {wildcards.bucket} "
        "--threads {threads} > {log} 2>&1"


rule tissue_manifest:
    input:
        tissue_buckets,
    output:
        "<tissue>/manifest.parquet",
    log:
        "<logs>/tissue/manifest.log",
    conda:
        "../../envs/cpu.yaml"
    envmodules:
        *MODULES,
    params:
        max_failed=PLAN.config.cohort.max_failed,
    shell:
        "slidemill tissue --gather > {log} 2>&1"


rule tissue:
    input:
        stage_files("tissue"),
