"""Reports: pages for people, made from results and nothing else."""

from taskvec.report.analysis import analysis_html as analysis_html
