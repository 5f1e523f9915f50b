rule write_report:
    input:
        stage_files("features"),
        stage_files("pretrain"),
        stage_files("evaluate"),
        recompute=recompute("report"),
    output:
        report(
            "<report>/report.html",
            caption="../report/report.rst",
            category="Results",
        ),
    log:
        "<logs>/report.log",
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=growing_mem(4000),
        runtime=growing_time(60),
    shell:
        "slidemill report > {log} 2>&1"


rule report:
    input:
        stage_files("report"),
