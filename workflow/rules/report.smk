rule write_report:
    input:
        stage_files("features"),
        stage_files("pretrain"),
        stage_files("evaluate"),
        recompute=recompute("report", PLAN.report.name),
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
    envmodules:
        *MODULES,
    resources:
        mem_mb=mem_mb("report"),
        runtime=minutes("report"),
    shell:
        "slidemill report > {log} 2>&1"


rule report:
    input:
        stage_files("report"),
