rule cohort_bucket:
    input:
        recompute=recompute("cohort", "failed"),
    output:
        "<cohort>/buckets/{bucket}.parquet",
    log:
        "<logs>/cohort/{bucket}.log",
    conda:
        "../../envs/cpu.yaml"
    threads: 4
    resources:
        mem_mb=growing_mem(2000),
        runtime=growing_time(60),
    params:
        slides=bucket_digest,
    shell:
        "slidemill cohort --bucket {wildcards.bucket} "
        "--threads {threads} > {log} 2>&1"


rule cohort_table:
    input:
        bucket_paths(PLAN.cohort),
    output:
        "<cohort>/cohort.parquet",
    log:
        "<logs>/cohort/table.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        sheet=PLAN.sheet_digest(),
        max_failed=PLAN.config.cohort.max_failed,
    shell:
        "slidemill cohort --gather > {log} 2>&1"
