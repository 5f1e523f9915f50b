rule cohort_bucket:
    input:
        recompute=recompute("cohort", PLAN.cohort.name),
    output:
        "<cohort>/buckets/{bucket}.parquet",
    log:
        "<logs>/cohort/{bucket}.log",
    conda:
        "../../envs/cpu.yaml"
    envmodules:
        *MODULES,
    threads: 4
    resources:
        mem_mb=mem_mb("cohort"),
        runtime=minutes("cohort"),
    params:
        slides=bucket_digest,
        files=slide_files,
    shell:
        "slidemill cohort --bucket {wildcards.bucket} "
        "--threads {threads} > {log} 2>&1"


rule cohort_table:
    input:
        cohort_buckets,
    output:
        "<cohort>/cohort.parquet",
    log:
        "<logs>/cohort/table.log",
    conda:
        "../../envs/cpu.yaml"
    envmodules:
        *MODULES,
    params:
        sheet=sheet_digest,
        max_failed=PLAN.config.cohort.max_failed,
    shell:
        "slidemill cohort --gather > {log} 2>&1"
