"""The gene universe of the virtual tissue: real symbols in programmes, and which cell types run which programme.

What a programme holds is common knowledge of the field; what strength it has here is invented. The table of markers
that the labels use (data/markers.csv) was written separately from textbooks. The two agree where biology is
unambiguous and differ elsewhere, as they would on a real sample: some textbook markers are silent here, some
programme genes are in no marker table, and many genes are run by several types.
"""

from __future__ import annotations

import zlib
from functools import cache

import numpy as np

PROGRAMMES: dict[str, str] = {
    # epithelium
    "epithelial": "EPCAM CDH1 KRT8 KRT18 KRT19 CLDN4 CLDN7 ELF3 SPINT2 CD24 KRT7 MUC1 PERP TSPAN1 S100A14 ESRP1",
    "luminal": "KRT7 AZGP1 XBP1 SLPI TFF3 AREG STC2 CLU LTF KRT15 MUC1 ALDH1A3 SLC12A2 TSPAN13",
    "basal": "KRT5 KRT14 KRT17 TP63 KRT15 DST COL17A1 OXTR MYLK ACTA2 CNN1 TAGLN LAMB3 CAV1",
    "colonocyte": "CA1 CA2 SLC26A3 AQP8 GUCA2A GUCA2B CEACAM1 CEACAM7 FABP1 KRT20 VIL1 PHGR1 LGALS4 MS4A12 SLC26A2",
    "goblet": "MUC2 TFF3 FCGBP ZG16 CLCA1 SPINK4 ITLN1 REG4 ATOH1 SPDEF AGR2 BEST2 REP15",
    "alveolar": "SFTPC SFTPB SFTPA1 SFTPA2 SFTPD NAPSA LAMP3 ABCA3 SLC34A2 PGC CTSH HHIP MUC1 AQP4",
    "tubule": "PAX8 LRP2 CUBN SLC34A1 AQP1 GPX3 ALDOB CDH16 UMOD SLC12A1 CALB1 MIOX SLC22A8 KCNJ1 DEFB1 SPP1",
    # organ programmes: run by epithelial and neoplastic cells of that organ
    "organ_breast": "GATA3 ANKRD30A SCGB2A2 ESR1 PGR PIP FOXA1 TRPS1",
    "organ_colon": "CDX1 CDX2 LGALS4 VIL1 KRT20 GPA33 CDH17",
    "organ_lung": "NKX2-1 NAPSA SLC34A2 SCGB3A2 SFTPB CEACAM6",
    "organ_kidney": "PAX8 PAX2 CA9 CDH16 NNMT GPX3 EGLN3",
    "organ_prostate": "KLK3 KLK2 ACP3 NKX3-1 MSMB TMPRSS2 FOLH1 AR",
    # carcinoma
    "carcinoma": (
        "EPCAM KRT8 KRT18 KRT19 CEACAM5 CEACAM6 ERBB2 CCND1 MYC S100P TACSTD2 CLDN3 SOX4 SOX9 TFF1 LCN2 "
        "TM4SF1 MSLN STMN1 PHLDA2 MDK TUBB3 SQLE CDKN2A MET CDK4 HMGA1 BCL2L1 MUC4 ID1"
    ),
    "invasion": "MMP7 LAMC2 ITGB6 PLAUR SERPINE1 SNAI2 MMP1 ITGA5 VIM L1CAM",
    "in_situ": "TFF1 AGR3 CEACAM6 CLDN4 DCD FOXA1 CRABP2",
    "cycling": (
        "MKI67 TOP2A PCNA UBE2C CCNB1 CDK1 BIRC5 TYMS CENPF NUSAP1 TPX2 CDC20 STMN1 HMGB2 PTTG1 RRM2 TYMS KIF11 MCM2"
    ),
    # immune
    "leukocyte": "PTPRC CD37 CORO1A LAPTM5 CD53 ARHGDIB CXCR4 CD69 CYTIP SRGN HCST CD48",
    "t_cell": "CD3D CD3E CD3G CD2 CD247 TRAC CD7 IL7R LCK CD5 CD27 IL32 CD52 CD6 SIT1",
    "cd4": "CD4 CD40LG FOXP3 IL2RA CTLA4 CCR7 SELL TCF7 ICOS TIGIT MAL LEF1 TNFRSF4 CCR4",
    "cd8": "CD8A CD8B GZMA GZMB GZMK GZMH PRF1 NKG7 GNLY CCL5 KLRD1 KLRG1 LAG3 EOMES CST7 CCL4",
    "b_cell": "MS4A1 CD19 CD79A CD79B BANK1 TNFRSF13C BLK PAX5 CD22 VPREB3 SPIB FCRL1 CR2 CXCR5 CD74 HLA-DRA",
    "plasma": "MZB1 JCHAIN DERL3 TNFRSF17 IGHG1 IGKC IGHA1 XBP1 PRDM1 SDC1 CD38 POU2AF1 FCRL5 SLAMF7 CD79A CD27",
    "macrophage": (
        "CD68 CD163 MRC1 C1QA C1QB C1QC CD14 AIF1 CSF1R MSR1 MARCO FCGR3A APOE FCER1G TYROBP LYZ SPP1 GPNMB "
        "MS4A4A VSIG4 TREM2 ITGAX HLA-DRA CD74 CTSB CD4"
    ),
    "neutrophil": "S100A8 S100A9 S100A12 CSF3R FCGR3B CXCR2 CXCR1 G0S2 MMP9 CXCL8 IL1R2 PROK2 AQP9 OSM TYROBP FCER1G",
    "mast": "TPSAB1 CPA3 MS4A2 KIT HDC HPGDS GATA2 CTSG SLC18A2 IL1RL1 FCER1G ALOX5AP",
    # stroma
    "stromal": "VIM SPARC COL4A1 COL6A1 COL6A2 CALD1 IGFBP7 TIMP3 BGN LGALS1 SPARCL1",
    "fibroblast": (
        "COL1A1 COL1A2 COL3A1 DCN LUM PDGFRA FBLN1 DPT C7 MFAP5 PI16 CFD SFRP2 FBN1 CCDC80 IGF1 THY1 C3 CXCL12 PDPN"
    ),
    "caf": "FAP POSTN COL11A1 MMP11 INHBA CTHRC1 COL10A1 LRRC15 THBS2 SULF1 ACTA2 TAGLN TNC MMP2 FN1 COL1A1 PDGFRB",
    "endothelial": (
        "PECAM1 VWF CLDN5 CDH5 KDR FLT1 EGFL7 PLVAP ACKR1 ENG EMCN ESAM RAMP2 TIE1 TEK ERG SELE AQP1 CD34 CAV1"
    ),
    "pericyte": "RGS5 PDGFRB NOTCH3 CSPG4 MCAM KCNJ8 ABCC9 HIGD1B COX4I2 NDUFA4L2 HEYL ACTA2 THY1",
    "muscle": "ACTA2 MYH11 DES TAGLN CNN1 ACTG2 MYLK LMOD1 SYNM PLN SYNPO2 TPM2",
    "adipose": "ADIPOQ PLIN1 PLIN4 FABP4 CIDEC LPL LEP CD36 AQP7 GPD1 LIPE PPARG DGAT2 G0S2 CFD",
    # states any cell may be in, driven by where it lies
    "interferon": "ISG15 MX1 IFI6 IFIT1 IFIT3 STAT1 CXCL9 CXCL10 CXCL11 GBP1 IDO1 HLA-DRA CD274 TAP1",
    "hypoxia": "CA9 VEGFA NDRG1 SLC2A1 ADM BNIP3 PGK1 LDHA HIF1A ANKRD37 EGLN3 PDK1",
    "stress": "FOS JUN EGR1 HSPA1A HSPA1B DNAJB1 IER2 JUNB ATF3 DUSP1 KLF2 KLF6",
    "inflammation": "IL6 CCL2 CXCL1 CXCL2 NFKBIA ICAM1 SOD2 IL1B TNFAIP3 BIRC3 PTGS2 CXCL8",
    "matrix": "FN1 TGFBI SERPINE1 COL5A1 LOX SERPINH1 TIMP1 VCAN CCN2 POSTN",
}

HOUSEKEEPING = (
    "ACTB GAPDH B2M TUBA1B RPLP0 EEF1A1 UBC MALAT1 NEAT1 HSP90AB1 TMSB4X TMSB10 FTL FTH1 ENO1 PPIA RPS18 RPL13 RPS6 "
    "RPL7 TPT1 HNRNPA1 YWHAZ PFN1 CFL1 ARPC2 MYL6 COX6C ATP5F1B NDUFA4 UQCRB SLC25A5 PSMB1 CALM2 SERF2 HSPA8"
)

OTHERS = (
    "NOTCH1 NOTCH2 NOTCH4 JAG1 DLL1 WNT5A WNT2B FZD1 LEF1 LGR5 LGR4 OLFM4 ASCL2 AXL MERTK TYRO3 EPHA2 EPHB3 EPHB4 "
    "FGFR1 FGFR2 FGFR3 EGFR ERBB3 IGF1R INSR SMAD2 SMAD3 SMAD7 TGFB1 TGFB2 TGFBR1 TGFBR2 BMP2 BMP4 BMPR2 ID2 RUNX1 "
    "RUNX3 TBX21 BATF BCL6 IKZF2 IRF1 IRF8 NR4A1 RORA ZEB1 ZEB2 TWIST1 TCF4 FLI1 ETV1 ETV5 HEY1 NFATC1 MAF MAFB "
    "IL10 IL15 IL18 IL1R1 IL6R IL7 IL2RB IL2RG TNF TNFRSF1A TNFRSF1B TNFSF10 LTB CCL19 CCL21 CCL18 CCL22 CXCL13 "
    "CXCL14 CXCL16 CX3CL1 CX3CR1 CCR5 CCR2 CCR6 CXCR3 CXCR6 PDCD1 HAVCR2 TOX ITGAE ITGB7 ITGA1 ITGAM FAS ENTPD1 "
    "NT5E CD40 CD80 CD86 CD1C CLEC9A XCR1 CLEC4C LILRA4 LYVE1 PROX1 PDPN STING1 ALDH1B1 ACE ANPEP MME DPP4 CFTR "
    "SLC40A1 TFRC GCLM NQO1 PTEN TP53 RB1 BRCA1 ATM KRAS BRAF NF1 APC CTNNB1 VHL"
)

# fine type -> programme -> strength (natural log of the fold over the background, for a gene of full loading)
TYPE_PROGRAMMES: dict[str, dict[str, float]] = {
    "luminal_epithelial": {"epithelial": 3.0, "luminal": 2.8, "organ": 3.0},
    "basal_myoepithelial": {"epithelial": 2.0, "basal": 3.2, "organ": 1.0, "stromal": 0.6},
    "colonocyte": {"epithelial": 2.9, "colonocyte": 3.2, "organ": 2.5},
    "goblet": {"epithelial": 2.5, "goblet": 3.6, "colonocyte": 0.8, "organ": 2.0},
    "alveolar_type2": {"epithelial": 2.6, "alveolar": 3.4, "organ": 2.5},
    "tubule_epithelial": {"epithelial": 2.2, "tubule": 3.2, "organ": 2.5},
    "carcinoma_invasive": {"epithelial": 2.7, "carcinoma": 2.4, "invasion": 1.9, "organ": 1.5, "luminal": 0.8},
    "carcinoma_in_situ": {"epithelial": 3.0, "carcinoma": 2.3, "in_situ": 1.9, "organ": 2.0, "luminal": 1.2},
    "carcinoma_cycling": {"epithelial": 2.6, "carcinoma": 2.4, "cycling": 3.0, "invasion": 1.2, "organ": 1.3},
    "t_cd4": {"leukocyte": 2.6, "t_cell": 3.0, "cd4": 2.3, "cycling": 0.3},
    "t_cd8": {"leukocyte": 2.6, "t_cell": 3.0, "cd8": 2.7, "cycling": 0.4},
    "b_cell": {"leukocyte": 2.6, "b_cell": 3.2, "cd4": 0.3},
    "plasma": {"leukocyte": 1.4, "plasma": 3.7, "b_cell": 0.5},
    "macrophage": {"leukocyte": 2.0, "macrophage": 3.0, "stromal": 0.5, "inflammation": 0.7},
    "neutrophil": {"leukocyte": 2.2, "neutrophil": 3.3, "inflammation": 1.3},
    "mast": {"leukocyte": 1.8, "mast": 3.8},
    "fibroblast": {"stromal": 2.2, "fibroblast": 2.9},
    "caf": {"stromal": 2.4, "fibroblast": 2.0, "caf": 2.7, "matrix": 1.4},
    "endothelial": {"stromal": 1.8, "endothelial": 3.1},
    "pericyte": {"stromal": 2.2, "pericyte": 3.1, "muscle": 0.9},
    "smooth_muscle": {"stromal": 2.0, "muscle": 3.4, "pericyte": 0.5},
    "adipocyte": {"stromal": 1.2, "adipose": 3.6},
}

CONTRAST = 0.8  # on all strengths: a supervised classifier separates lineages about as well as on a MERFISH section

STATES_VISIBLE = ("hypoxia", "interferon", "matrix")  # follow the region and the crowding around the cell
STATES_HIDDEN = ("stress", "inflammation", "cycling")  # follow a smooth field that leaves no trace in the image

_WORLD = 20_260_101  # the one seed of what is true in every section: abundances and loadings


@cache
def universe() -> tuple[str, ...]:
    """All gene symbols of the virtual tissue, sorted: what spots, bulk and single-cell assays see."""
    words = " ".join([*PROGRAMMES.values(), HOUSEKEEPING, OTHERS]).split()
    return tuple(sorted(set(words)))


@cache
def panel() -> tuple[str, ...]:
    """The genes of the targeted cell-level assay: every programme gene and a share of the others, no housekeeping."""
    programme = set(" ".join(PROGRAMMES.values()).split())
    others = sorted(set(OTHERS.split()) - programme)
    return tuple(sorted(programme | set(others[::4])))


@cache
def loadings() -> tuple[np.ndarray, tuple[str, ...]]:
    """How strongly each programme drives each of its genes: (n_programmes, G) in 0 to 1.2, and the programmes' names.

    One gene in eight of a programme is silent in this world whatever the books say.
    """
    index = {gene: i for i, gene in enumerate(universe())}
    out = np.zeros((len(PROGRAMMES), len(index)))
    for row, (name, words) in enumerate(PROGRAMMES.items()):
        genes = [index[g] for g in dict.fromkeys(words.split())]
        rng = np.random.default_rng([_WORLD, zlib.crc32(name.encode())])  # adding a programme leaves the others alone
        silent = rng.random(len(genes)) < 1 / 8
        out[row, genes] = np.where(silent, 0.0, rng.uniform(0.6, 1.2, len(genes)))
    return out, tuple(PROGRAMMES)


@cache
def background() -> np.ndarray:
    """Relative abundance of each gene in a cell that runs no programme: (G,) positive, log-normal."""
    rng = np.random.default_rng([_WORLD, 1])
    genes = universe()
    level = np.exp(0.7 * rng.normal(size=len(genes)).clip(-1.6, 1.6))
    housekeeping = set(HOUSEKEEPING.split())
    others = set(OTHERS.split())
    scale = np.array([40.0 if g in housekeeping else 1.5 if g in others else 1.0 for g in genes])
    return level * scale


def type_noise(n_types: int) -> np.ndarray:
    """Log-factors (n_types, G) by which types differ beyond their programmes, so that no type is a clean sum."""
    return np.random.default_rng([_WORLD, 2]).normal(0.0, 0.3, (n_types, len(universe())))


def sensitivity(strength: float) -> np.ndarray:
    """Efficiency of the panel's probe for each gene of the universe: (G,), log-normal, SD `strength`, mean about 1."""
    return np.exp(strength * np.random.default_rng([_WORLD, 3]).normal(size=len(universe())) - strength**2 / 2)
