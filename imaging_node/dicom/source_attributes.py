"""Which attributes of a received image a result takes over."""

from __future__ import annotations

from typing import Final

TYPE_2_KEYWORDS: Final = {
    "PatientName": "PN",
    "PatientID": "LO",
    "PatientBirthDate": "DA",
    "PatientSex": "CS",
    "StudyDate": "DA",
    "StudyTime": "TM",
    "StudyID": "SH",
    "AccessionNumber": "SH",
    "ReferringPhysicianName": "PN",
}
"""Type 2 of the Patient and General Study modules: present in every result, maybe empty."""

IDENTITY_KEYWORDS: Final = (
    "SpecificCharacterSet",
    *TYPE_2_KEYWORDS,
    # Patient (PS3.3 C.7.1.1)
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "TypeOfPatientID",
    "PatientBirthTime",
    "PatientBirthDateInAlternativeCalendar",
    "PatientDeathDateInAlternativeCalendar",
    "PatientAlternativeCalendar",
    "QualityControlSubject",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "EthnicGroup",
    "EthnicGroupCodeSequence",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    "PatientComments",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    # General Study (C.7.2.1)
    "StudyInstanceUID",
    "StudyDescription",
    "ProcedureCodeSequence",
    "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianIdentificationSequence",
    "ConsultingPhysicianName",
    "ConsultingPhysicianIdentificationSequence",
    "PhysiciansOfRecord",
    "PhysiciansOfRecordIdentificationSequence",
    "NameOfPhysiciansReadingStudy",
    "PhysiciansReadingStudyIdentificationSequence",
    "RequestingService",
    "RequestingServiceCodeSequence",
    "ReasonForPerformedProcedureCodeSequence",
    # Patient Study (C.7.2.2)
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientSizeCodeSequence",
    "PatientBodyMassIndex",
    "PatientWeight",
    "MedicalAlerts",
    "Allergies",
    "Occupation",
    "SmokingStatus",
    "AdditionalPatientHistory",
    "PregnancyStatus",
    "LastMenstrualDate",
    "PatientSexNeutered",
    "ReasonForVisit",
    "ReasonForVisitCodeSequence",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "ServiceEpisodeID",
    "ServiceEpisodeDescription",
    "IssuerOfServiceEpisodeIDSequence",
    "PatientState",
    # Clinical Trial Subject and Study (C.7.1.3, C.7.2.3)
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "ClinicalTrialProtocolEthicsCommitteeName",
    "ClinicalTrialProtocolEthicsCommitteeApprovalNumber",
    "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
    "LongitudinalTemporalOffsetFromEvent",
    "LongitudinalTemporalEventType",
    "ConsentForClinicalTrialUseSequence",
)
"""What a result carries byte for byte, so that it files beside its images."""

REQUEST_KEYWORDS: Final = (
    "RequestAttributesSequence",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
)

EQUIPMENT_KEYWORDS: Final = (
    "Manufacturer",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
    "InstitutionalDepartmentName",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "DeviceUID",
)
"""What names the device that acquired the image (Contributing Equipment)."""

CLEAN_KEYWORDS: Final = (
    "Modality",
    "BodyPartExamined",
    "TimezoneOffsetFromUTC",
    "PatientOrientation",
    "ImageLaterality",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "FrameOfReferenceUID",
    "SliceThickness",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SpacingBetweenSlices",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
"""What describes the image: parsed, and left out where it cannot be."""

BODY_PARTS: Final = frozenset(
    """
    3RDVENTRICLE 4THVENTRICLE ABDOMEN ABDOMENPELVIS ABDOMINALAORTA ACA ACJOINT ADRENAL
    AMNIOTICFLUID ANKLE ANTCARDIACV ANTCOMMA ANTECUBITALV ANTSPINALA ANTTIBIALA ANUSRECTUMSIGMD
    AORTA AORTICARCH APPENDIX ARTERY ASCAORTA ASCENDINGCOLON AXILLA AXILLARYA AXILLARYV
    AZYGOSVEIN BACK BASILARA BILEDUCT BILIARYTRACT BLADDER BLADDERURETHRA BRACHIALA BRACHIALV
    BRAIN BREAST BRONCHUS BULB BUTTOCK CALCANEUS CALF CARDIOVASCSYS CAROTID CCA CELIACA
    CEPHALICV CEREBELLUM CEREBHEMISPHERE CEREBRALA CERVIX CFA CFV CHEEK CHEST CHESTABDOMEN
    CHESTABDPELVIS CHOROIDPLEXUS CIRCLEOFWILLIS CLAVICLE COCCYX COLON COMILIACA COMILIACV
    COMMONBILEDUCT CORNEA CORONARYARTERY CORONARYSINUS CSPINE CTSPINE CULDESAC DESCAORTA
    DESCENDINGCOLON DUODENUM EAC EAR ECA ELBOW ENDOARTERIAL ENDOCARDIAC ENDOESOPHAGEAL
    ENDOMETRIUM ENDONASAL ENDONASOPHARYNYX ENDORECTAL ENDORENAL ENDOURETERIC ENDOURETHRAL
    ENDOVAGINAL ENDOVASCULAR ENDOVENOUS ENDOVESICAL EPIDIDYMIS EPIGASTRIC ESOPHAGUS EXTILIACA
    EXTILIACV EXTJUGV EXTREMITY EYE EYELID FACE FACIALA FEMORALA FEMORALV FEMUR FIBULA FINGER
    FLANK FONTANEL FOOT FOREARM GALLBLADDER GASTRICV GENICULARA GESTSAC GLUTEAL GSV HAND HEAD
    HEADNECK HEART HEPATICA HEPATICV HIP HUMERUS HYPOGASTRIC HYPOPHARYNX IAC ICA ILEUM ILIACA
    ILIACV ILIUM INFMESA INFVENACAVA INGUINAL INNOMINATEA INNOMINATEV INTILIACA INTJUGULARV
    INTMAMMARYA INTRACRANIAL JAW JEJUNUM JOINT KIDNEY KNEE LACRIMALA LARGEINTESTINE LARYNX
    LATRIUM LATVENTRICLE LFEMORALA LHEPATICV LHYPOCHONDRIAC LINGUALA LINGUINAL LIVER LLQ LLUMBAR
    LOWERLEG LOWERLIMB LOWERTRUNK LPORTALV LPULMONARYA LSPINE LSSPINE LSUPPULMONARYV LUMBAR
    LUMBARA LUMEN LUNG LUQ LVENTRICLE MANDIBLE MASTOID MAXILLA MCA MEDIASTINUM MESENTRICA
    MESENTRICV MIDHEPATICV MORISONSPOUCH MOUTH NASOPHARYNX NECK NECKCHEST NECKCHESTABDOMEN
    NECKCHESTABDPELV NOSE OCCIPTALV OCCPITALA OPHTHALMICA OPTICCANAL ORBIT OVARY PANCBILEDUCT
    PANCREAS PANCREATICDUCT PARASTERNAL PARATHYROID PAROTID PATELLA PCA PELVIS PELVISLOWEXTREMT
    PENILEA PENIS PERINEUM PERONEALA PHANTOM PHARYNX PHARYNXLARYNX PLACENTA POPLITEALA
    POPLITEALFOSSA POPLITEALV PORTALV POSCOMMA POSTIBIALA PROFFEMA PROFFEMV PROSTATE PULMONARYA
    PULMONARYV RADIALA RADIUS RADIUSULNA RATRIUM RECTUM RENALA RENALV RETROPERITONEUM RFEMORALA
    RHEPATICV RHYPOCHONDRIAC RIB RINGUINAL RLQ RLUMBAR RPORTALV RPULMONARYA RSUPPULMONARYV RUQ
    RVENTRICLE SAPHENOUSV SCALP SCAPULA SCJOINT SCLERA SCROTUM SELLA SEMVESICLE SESAMOID SFA SFJ
    SFV SHOULDER SIGMOID SIJOINT SKULL SMA SMALLINTESTINE SPINALCORD SPINE SPLEEN SPLENICA
    SPLENICV SSPINE STERNUM STOMACH SUBCLAVIANA SUBCLAVIANV SUBCOSTAL SUBMANDIBULAR
    SUPRACLAVICULAR SUPRAPUBIC SUPTHYROIDA SVC TESTIS THALAMUS THIGH THORACICAORTA THORAX THUMB
    THYMUS THYROID TIBIA TIBIAFIBULA TLSPINE TMJ TOE TONGUE TRACHEA TRACHEABRONCHUS
    TRANSVERSECOLON TRUNK TSPINE ULNA ULNARA UMBILICAL UMBILICALA UMBILICALV UPPERARM UPPERLIMB
    UPPERTRUNK UPRURINARYTRACT URETER URETHRA UTERUS VAGINA VEIN VERTEBRALA VULVA WHOLEBODY
    WRIST ZYGOMA
    """.split()  # noqa: SIM905 - a literal list would be 317 lines
)
"""Defined terms of Body Part Examined (PS3.16 Annex L)."""
